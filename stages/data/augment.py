"""Put what amounts in a text do into words, where the params ask for it.

In: rows. Out: the same rows, whose texts features and models read. `predict` does the same.

    python -m stages.data.augment --dataset phrasebank
"""

import logging

from stages.core.layout import Layout
from stages.core.params import Params, read_params
from stages.core.tables import read_table, write_table
from stages.core.tasks import read_task
from stages.data.comparisons import put_into_words
from stages.runtime.cli import run

log = logging.getLogger("verdict")


class AugmentParams(Params):
    """Section `augment`.

    `comparisons` adds a word for what the amounts did that an English text compares.
    """

    section = "augment"

    comparisons: bool = False


def main(*, dataset: str) -> None:
    """Write the rows with the texts that features and models read."""
    layout = Layout(dataset)
    params = read_params(AugmentParams, layout)
    rows = read_table(layout.rows)
    if params.comparisons:
        rows = put_into_words(rows, read_task(layout.labels).text_columns)
    write_table(rows, layout.augmented)
    log.info("augment: %d rows%s", len(rows), ", compared amounts in words" * params.comparisons)


if __name__ == "__main__":
    run(main)
