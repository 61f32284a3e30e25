"""Compare the models of two revisions or experiments: better, worse or undecided? A tool, no stage.

In: a Git revision or DVC experiment, and a second one or else the workspace. All that is read lies
in Git, so a clone without DVC's cache will do. Out: for each dataset and model the mean difference
of the out-of-fold losses on the rows that both sides predicted (joined by id), its 95 % interval
from a bootstrap over groups of near-duplicates (where the sides grouped differently, over their
groups joined), and the verdict; what changed in params, code, data and cost. Text in the terminal,
Markdown for a pull request, JSON for machines, and the plots that changed as images.

*better* and *worse*: the interval leaves out 0. *undecided*: it does not; `detectable` is the true
difference that data of this size would find in 80 % of all repetitions at 5 % (2.8 standard
errors). What is judged are these predictions: how they would vary with another seed of training,
the interval does not know.

    python -m stages.tools.compare.compare main
    python -m stages.tools.compare.compare main my-experiment --markdown-out comment.md
"""

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tables import GROUP, ID, atomic, write_json
from stages.evaluation.scoring.losses import LOSS, read_losses
from stages.runtime.cli import run
from stages.runtime.outputs import file_faults, folder_faults
from stages.tools.compare._bootstrap import interval
from stages.tools.compare._plots import write_plots
from stages.tools.compare._report import Comparison, Report, as_markdown, as_text
from stages.tools.compare._revisions import Revision, changes, name_of, open_revision

Name: TypeAlias = tuple[str, str]  # dataset and model


def joined_groups(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Number of each row's group, `(n_rows,)`: rows are together that are together on any side."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = pd.factorize(left)[0], pd.factorize(right)[0]
    other += len(left)
    edges = coo_array((np.ones(len(left)), (one, other)), shape=[2 * len(left)] * 2)
    _, component = connected_components(edges, directed=False)
    numbers: npt.NDArray[np.intp] = pd.factorize(component[one])[0]
    return numbers


def compare_losses(
    dataset: str, model: str, before: pd.DataFrame, after: pd.DataFrame
) -> Comparison | None:
    """Compare the losses (`id`, `group`, `loss`) of two sides; None where they share no row."""
    shared = before.merge(after, on=ID, suffixes=("_before", "_after"), validate="one_to_one")
    if shared.empty:
        return None
    old, new = (side(shared, LOSS, name).astype(float) for name in ("before", "after"))
    groups = joined_groups(side(shared, GROUP, "before"), side(shared, GROUP, "after"))
    return Comparison(
        dataset,
        model,
        rows=len(shared),
        groups=int(groups.max()) + 1,
        only_before=len(before) - len(shared),
        only_after=len(after) - len(shared),
        before=float(old.mean()),
        after=float(new.mean()),
        interval=interval(new - old, groups),
    )


def side(shared: pd.DataFrame, column: str, name: str) -> npt.NDArray[Any]:
    """A column of one side of the joined table."""
    return shared[f"{column}_{name}"].to_numpy()


def compare(before: Revision, after: Revision) -> Report:
    """Compare every model of every dataset that both sides have."""
    old, new = read_all(before), read_all(after)
    common = [name for name in old if name in new]
    datasets = list(dict.fromkeys(dataset for dataset, _ in common))
    found = {name: compare_losses(*name, old[name], new[name]) for name in common}
    faults = [fault for name in common for fault in label_faults(before, after, *name)]
    faults += [
        f"{dataset}: no common rows; expected ids of the same data"
        for dataset in datasets
        if not any(found[name] for name in common if name[0] == dataset)
    ]
    if not common:
        had, has = (", ".join(map("/".join, names)) for names in (old, new))
        faults = [f"got {had} and {has}; expected a model that both sides have"]
    if faults:
        raise InputError.listing(f"{before.label} and {after.label} cannot be compared:", faults)
    left_out = {
        f"Only in {before.label}": [name for name in old if name not in new],
        f"Only in {after.label}": [name for name in new if name not in old],
        "No shared rows": [name for name in common if found[name] is None],
    }
    return Report(
        before.label,
        after.label,
        [comparison for comparison in found.values() if comparison],
        {why: ["/".join(name) for name in names] for why, names in left_out.items()},
        changes(before, after, datasets),
    )


def read_all(revision: Revision) -> dict[Name, pd.DataFrame]:
    """The losses of all models that judged any row, by dataset and model."""
    losses = Layout("*").losses("*")
    tables = {
        name_of(path): read_losses(revision.read(path), f"{revision.label}: {path}")
        for path in revision.files(losses)
    }
    found = {name: table for name, table in tables.items() if len(table)}
    if not found:
        raise InputError(
            f"{revision.label}: got no losses in {losses.parents[1]}; expected those that `dvc "
            "repro` writes and Git keeps (revisions of before there were any cannot be compared)"
        )
    return found


def label_faults(before: Revision, after: Revision, dataset: str, model: str) -> list[str]:
    """What is wrong if the sides do not predict the same classes."""
    path = Layout(dataset).classes(model).as_posix()
    old, new = (
        pd.read_csv(BytesIO(revision.read(path)), dtype=str, keep_default_na=False)["class"]
        .unique()
        .tolist()
        for revision in (before, after)
    )
    fault = f"{dataset}/{model}: labels: got {old} and {new}; expected the same"
    return [] if old == new else [fault]


def main(
    before: str,
    after: str | None = None,
    /,
    *,
    markdown_out: Path | None = None,
    json_out: Path | None = None,
    plots_out: Path | None = None,
) -> None:
    """Compare two revisions.

    Args:
        before: A branch, tag, commit or experiment.
        after: Another one; the workspace if left out.
        markdown_out: File for the report as a comment on a pull request.
        json_out: File for the report with all its digits.
        plots_out: Folder for the plots that changed, as PNG.
    """
    faults = [fault for path in (markdown_out, json_out) if path for fault in file_faults(path)]
    faults += folder_faults(plots_out) if plots_out else []
    if faults:
        raise InputError.listing("nothing was compared:", faults)
    sides = open_revision(before), open_revision(after)
    report = compare(*sides)
    print(as_text(report))  # noqa: T201 - for the person at the terminal
    if markdown_out is not None:
        with atomic(markdown_out) as temporary:
            temporary.write_text(as_markdown(report), encoding="utf-8")
    if json_out is not None:
        write_json(asdict(report), json_out)
    if plots_out is not None:
        write_plots(*sides, plots_out)


if __name__ == "__main__":
    run(main)
