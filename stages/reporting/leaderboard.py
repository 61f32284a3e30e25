r"""Put quality and cost of all models side by side, dataset by dataset.

In: the metrics of the models of the datasets that params.yaml lists. Out: one table, in each
dataset the best log loss first, those judged on fewer rows last, as CSV and as Markdown. The cost
of the ensemble is what it needs beyond its members.

    python -m stages.reporting.leaderboard --scores metrics/scores --cost metrics/cost --models svm \
        --models ensemble --csv metrics/leaderboard.csv --markdown-out metrics/leaderboard.md
"""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.params import read_datasets
from stages.core.tables import atomic, read_json, write_table
from stages.runtime.cli import run

QUALITY = [  # those that a task has
    "rows",  # that were judged: a model that ran on some folds only compares on these alone
    "log_loss",
    "accuracy",
    "balanced_accuracy",
    "subset_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "micro_f1",
    "weighted_f1",
    "mean_average_precision",
    "brier",
    "expected_calibration_error",
    "macro_auc",
    "dev_log_loss",
    "dev_accuracy",
    "dev_macro_f1",
    "dev_micro_f1",
]
COST = ["wall_seconds", "cpu_seconds", "peak_memory_mb", "fitted_size_mb", "predict_ms_per_row"]


def leaderboard(
    scores: dict[str, dict[str, float]], cost: dict[str, dict[str, float]]
) -> pd.DataFrame:
    """One row a model of one dataset, best log loss first; none for one that judged no row.

    Those judged on fewer rows than others come last: the figures of different rows do not compare.
    """
    rows = [
        {"model": model}
        | {name: found[name] for name in QUALITY if name in found}
        | {name: cost[model][name] for name in COST}
        for model, found in scores.items()
        if found["rows"]
    ]
    table = pd.DataFrame(rows)
    fewer = table["rows"] < table["rows"].max()
    return table.iloc[np.lexsort((table["model"], table["log_loss"], fewer))].reset_index(drop=True)


def markdown(table: pd.DataFrame, dataset: str) -> str:
    """The table of one dataset in GitHub's Markdown, with the units in the head."""
    digits = dict.fromkeys(QUALITY, 4) | dict.fromkeys(COST, 1)
    digits |= {"rows": 0, "predict_ms_per_row": 3}
    shown = table.copy()
    for name in shown.columns.drop("model"):
        shown[name] = shown[name].map(f"{{:.{digits[str(name)]}f}}".format)
    lines = [
        list(shown.columns),
        ["---"] + ["---:"] * (len(shown.columns) - 1),
        *shown.to_numpy().tolist(),
    ]
    return "\n".join([f"## {dataset}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def main(*, scores: Path, cost: Path, models: list[str], csv: Path, markdown_out: Path) -> None:
    """Write the leaderboard of `models`, from `<scores or cost>/<dataset>/<model>.json`."""
    tables = {}
    for dataset in read_datasets():
        found, spent = (
            {model: read_json(folder / dataset / f"{model}.json") for model in models}
            for folder in (scores, cost)
        )
        tables[dataset] = leaderboard(found, spent)
    columns = ["dataset", "model", *QUALITY, *COST]
    together = pd.concat(table.assign(dataset=name) for name, table in tables.items())
    write_table(together[[name for name in columns if name in together]], csv)
    with atomic(markdown_out) as temporary:
        temporary.write_text(
            "\n".join(markdown(table, name) for name, table in tables.items()), encoding="utf-8"
        )


if __name__ == "__main__":
    run(main)
