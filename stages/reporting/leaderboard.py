"""Put quality and cost of all models side by side, dataset by dataset.

In: the metrics of the models of the datasets that params.yaml lists. Out: one table, in each
dataset the best log loss first, those judged on fewer rows last, as CSV and as Markdown. The cost
of the ensemble is what it needs beyond its members.

    python -m stages.reporting.leaderboard
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.core.build import judged_models, read_build
from stages.core.layout import LEADERBOARD, LEADERBOARD_TEXT, Layout
from stages.core.predictions import OOF
from stages.core.tables import atomic, read_json, write_table
from stages.evaluation.scoring.measures import COSTS, MEASURES, ROWS, Scores, columns
from stages.runtime.cli import run

QUALITY = {column.key: column for column in columns("leaderboard")}  # those that a task has
COST = [measure.key for measure in COSTS]


def leaderboard(
    scores: Mapping[str, Scores], cost: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """One row per model of one dataset, best log loss first; none for one that judged no row.

    Those judged on fewer rows than others come last: the figures of different rows do not compare.
    """
    rows = [
        {"model": model}
        | {
            key: value
            for key, column in QUALITY.items()
            if (value := column.read(found)) is not None
        }
        | {key: cost[model][key] for key in COST}
        for model, found in scores.items()
        if found[OOF][ROWS.key]
    ]
    table = pd.DataFrame(rows)
    fewer = table["rows"] < table["rows"].max()
    return table.iloc[np.lexsort((table["model"], table["log_loss"], fewer))].reset_index(drop=True)


def markdown(table: pd.DataFrame, dataset: str) -> str:
    """The table of one dataset in GitHub's Markdown, with the units in the head."""
    shown = table.copy()
    for key in shown.columns.drop("model"):
        measure = QUALITY[key].measure if key in QUALITY else MEASURES[key]
        shown[key] = shown[key].map(measure.text)
    lines = [
        list(shown.columns),
        ["---"] + ["---:"] * (len(shown.columns) - 1),
        *shown.to_numpy().tolist(),
    ]
    return "\n".join([f"## {dataset}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def main() -> None:
    """Write the leaderboard of all datasets that are built."""
    tables = {}
    for dataset in read_build().datasets:
        layout = Layout(dataset)
        models = judged_models(layout)
        scores = {model: read_json(layout.scores(model)) for model in models}
        cost = {model: read_json(layout.cost(model)) for model in models}
        tables[dataset] = leaderboard(scores, cost)
    together = pd.concat(table.assign(dataset=name) for name, table in tables.items())
    names = ["dataset", "model", *QUALITY, *COST]
    write_table(together[[name for name in names if name in together]], LEADERBOARD)
    with atomic(LEADERBOARD_TEXT) as temporary:
        temporary.write_text(
            "\n".join(markdown(table, name) for name, table in tables.items()), encoding="utf-8"
        )


if __name__ == "__main__":
    run(main)
