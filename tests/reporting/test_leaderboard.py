from pathlib import Path

import pandas as pd

from stages.core.layout import LEADERBOARD, LEADERBOARD_TEXT, Layout
from stages.core.tables import write_json
from stages.reporting import leaderboard

COST = {
    "wall_seconds": 1.25, "cpu_seconds": 2.0, "peak_memory_mb": 300.04, "fitted_size_mb": 0.5,
    "predict_ms_per_row": 0.12345,
}  # fmt: skip
KEYS = [
    "rows", "log_loss", "accuracy", "balanced_accuracy", "subset_accuracy", "macro_precision",
    "macro_recall", "macro_f1", "micro_f1", "weighted_f1", "mean_average_precision", "brier",
    "expected_calibration_error", "macro_auc",
]  # fmt: skip
DEV = ["log_loss", "accuracy", "macro_f1", "micro_f1"]
QUALITY = [*KEYS, *(f"dev_{key}" for key in DEV)]


def scored(**oof):
    """What `score` writes of a model that has every measure; some out-of-fold ones given."""
    return {
        "oof": dict.fromkeys(KEYS, 0.5) | {"rows": 2000, "at_half": {"macro_f1": 0.3}} | oof,
        "dev": dict.fromkeys(DEV, 0.5) | {"rows": 100.0, "brier": 0.5},
    }


def test_best_log_loss_comes_first_and_ties_are_ordered_by_name():
    losses = {"svm": 1.0, "mlp": 1.0, "best": 0.9, "worst": 1.1}
    found = leaderboard.leaderboard(
        {name: scored(log_loss=loss, fold=0.1) for name, loss in losses.items()},
        dict.fromkeys(losses, COST),
    )
    assert found["model"].tolist() == ["best", "mlp", "svm", "worst"]
    assert list(found) == ["model", *QUALITY, *COST]


def test_models_judged_on_fewer_rows_come_last():
    scores = {"all": scored(log_loss=1.0), "some": scored(rows=20, log_loss=0.5)}
    table = leaderboard.leaderboard(scores, dict.fromkeys(scores, COST))
    assert table["model"].tolist() == ["all", "some"]


def test_markdown_has_a_line_a_model_and_the_same_columns_in_each():
    table = leaderboard.leaderboard({"svm": scored(log_loss=1.03456)}, {"svm": COST})
    title, empty, head, rule, row, end = leaderboard.markdown(table, "arena").split("\n")
    assert (title, empty, end) == ("## arena", "", "")
    assert head.startswith("| model | rows | log_loss | accuracy |")
    assert rule == "| --- |" + " ---: |" * (len(QUALITY) + len(COST))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["svm", "2,000", "1.0346", "50.0%"]
    assert cells[-5:] == ["1.2", "2.0", "300", "0.50", "0.123"]


def test_metrics_that_the_task_has_not_are_no_columns():
    scores = {"svm": {"oof": {"rows": 9.0, "log_loss": 1.0, "macro_f1": 0.5}}}
    found = leaderboard.leaderboard(scores, {"svm": COST})
    assert list(found) == ["model", "rows", "log_loss", "macro_f1", *COST]


def test_model_that_judged_no_row_is_left_out():
    scores = {"svm": scored(), "minilm": {"oof": {"rows": 0}}}
    found = leaderboard.leaderboard(scores, dict.fromkeys(scores, COST))
    assert found["model"].tolist() == ["svm"]


def test_stage_reads_scores_and_cost_of_each_model_of_each_listed_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = {"linear": ["svm"], "dense": [], "latent": [], "backbones": []}
    curves = {"datasets": [], "models": []}
    build = {"datasets": ["tiny", "texts"], "build": groups, "learning_curves": curves}
    write_json(build, Path("params.yaml"))  # JSON is YAML
    texts = {"oof": {"rows": 7.0, "macro_f1": 0.4}}
    for dataset, found in {"tiny": scored(), "texts": texts, "unlisted": scored()}.items():
        layout = Layout(dataset)
        for model, loss in {"svm": 1.0, "ensemble": 0.9}.items():
            write_json(found | {"oof": found["oof"] | {"log_loss": loss}}, layout.scores(model))
            write_json(COST, layout.cost(model))
    leaderboard.main()
    table = pd.read_csv(LEADERBOARD)
    assert list(table) == ["dataset", "model", *QUALITY, *COST]
    assert table[["dataset", "model"]].to_numpy().tolist() == [
        ["tiny", "ensemble"], ["tiny", "svm"], ["texts", "ensemble"], ["texts", "svm"],
    ]  # fmt: skip
    assert table["macro_f1"].tolist() == [0.5, 0.5, 0.4, 0.4]
    assert table["accuracy"].isna().tolist() == [False, False, True, True]
    shown = LEADERBOARD_TEXT.read_text(encoding="utf-8")
    assert shown.startswith("## tiny\n\n| model | rows | log_loss | accuracy |")
    assert "\n\n## texts\n\n| model | rows | log_loss | macro_f1 | wall_seconds |" in shown
