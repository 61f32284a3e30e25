r"""Put quality and cost of all models side by side.

In: each model's metrics and cost. Out: one table, best log loss first, as CSV and as Markdown. The
cost of the ensemble is what it needs beyond its members.

    python -m stages.leaderboard --dataset demo --metrics metrics/demo --models svm \
        --models ensemble --csv metrics/demo/leaderboard.csv \
        --markdown-out metrics/demo/leaderboard.md
"""

from pathlib import Path

import pandas as pd

from stages.base.cli import run
from stages.base.tables import atomic, read_json, write_table

QUALITY = [  # those that a task has
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
    metrics: dict[str, dict[str, float]], cost: dict[str, dict[str, float]]
) -> pd.DataFrame:
    """One row a model, best log loss first."""
    rows = [
        {"model": model}
        | {name: found[name] for name in QUALITY if name in found}
        | {name: cost[model][name] for name in COST}
        for model, found in metrics.items()
    ]
    return pd.DataFrame(rows).sort_values(["log_loss", "model"], ignore_index=True)


def markdown(table: pd.DataFrame, dataset: str) -> str:
    """The table in GitHub's Markdown, with the units in the head."""
    digits = dict.fromkeys(QUALITY, 4) | dict.fromkeys(COST, 1) | {"predict_ms_per_row": 3}
    shown = table.copy()
    for name in shown.columns.drop("model"):
        shown[name] = shown[name].map(f"{{:.{digits[str(name)]}f}}".format)
    lines = [
        list(shown.columns),
        ["---"] + ["---:"] * (len(shown.columns) - 1),
        *shown.to_numpy().tolist(),
    ]
    return "\n".join([f"## {dataset}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def main(*, dataset: str, metrics: Path, models: list[str], csv: Path, markdown_out: Path) -> None:
    """Write the leaderboard of `models` from the folder `metrics`."""
    table = leaderboard(
        {model: read_json(metrics / f"{model}.json") for model in models},
        {model: read_json(metrics / "cost" / f"{model}.json") for model in models},
    )
    write_table(table, csv)
    with atomic(markdown_out) as temporary:
        temporary.write_text(markdown(table, dataset), encoding="utf-8")


if __name__ == "__main__":
    run(main)
