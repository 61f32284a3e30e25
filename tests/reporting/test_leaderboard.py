from pathlib import Path

import pandas as pd

from stages.core.tables import write_json
from stages.reporting import leaderboard

COST = {
    "wall_seconds": 1.25, "cpu_seconds": 2.0, "peak_memory_mb": 300.04, "fitted_size_mb": 0.5,
    "predict_ms_per_row": 0.12345,
}  # fmt: skip
QUALITY = dict.fromkeys(leaderboard.QUALITY, 0.5) | {"rows": 2000}


def test_best_log_loss_comes_first_and_ties_are_ordered_by_name():
    losses = {"svm": 1.0, "mlp": 1.0, "best": 0.9, "worst": 1.1}
    found = leaderboard.leaderboard(
        {name: QUALITY | {"log_loss": loss, "fold": 0.1} for name, loss in losses.items()},
        dict.fromkeys(losses, COST),
    )
    assert found["model"].tolist() == ["best", "mlp", "svm", "worst"]
    assert list(found) == ["model", *leaderboard.QUALITY, *leaderboard.COST]


def test_models_judged_on_fewer_rows_come_last():
    scores = {
        "all": QUALITY | {"log_loss": 1.0},
        "some": QUALITY | {"rows": 20, "log_loss": 0.5},
    }
    table = leaderboard.leaderboard(scores, dict.fromkeys(scores, COST))
    assert table["model"].tolist() == ["all", "some"]


def test_markdown_has_a_line_a_model_and_the_same_columns_in_each():
    table = leaderboard.leaderboard({"svm": QUALITY | {"log_loss": 1.03456}}, {"svm": COST})
    title, empty, head, rule, row, end = leaderboard.markdown(table, "arena").split("\n")
    assert (title, empty, end) == ("## arena", "", "")
    assert head.startswith("| model | rows | log_loss | accuracy |")
    assert rule == "| --- |" + " ---: |" * (len(leaderboard.QUALITY) + len(leaderboard.COST))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["svm", "2000", "1.0346", "0.5000"]
    assert cells[-5:] == ["1.2", "2.0", "300.0", "0.5", "0.123"]


def test_metrics_that_the_task_has_not_are_no_columns():
    scores = {"svm": {"rows": 9.0, "log_loss": 1.0, "macro_f1": 0.5}}
    found = leaderboard.leaderboard(scores, {"svm": COST})
    assert list(found) == ["model", "rows", "log_loss", "macro_f1", *leaderboard.COST]


def test_model_that_judged_no_row_is_left_out():
    scores = {"svm": QUALITY, "minilm": {"rows": 0}}
    found = leaderboard.leaderboard(scores, dict.fromkeys(scores, COST))
    assert found["model"].tolist() == ["svm"]


def test_stage_reads_scores_and_cost_of_each_model_of_each_listed_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("datasets: [tiny, texts]\nunlisted: {}\n", encoding="utf-8")
    quality = {"tiny": QUALITY, "texts": {"rows": 7.0, "macro_f1": 0.4}, "unlisted": QUALITY}
    for dataset, found in quality.items():
        for model, loss in {"svm": 1.0, "ensemble": 0.9}.items():
            write_json(found | {"log_loss": loss}, Path("scores", dataset, f"{model}.json"))
            write_json(COST, Path("cost", dataset, f"{model}.json"))
    leaderboard.main(
        scores=Path("scores"), cost=Path("cost"), models=["svm", "ensemble"],
        csv=Path("l.csv"), markdown_out=Path("l.md"),
    )  # fmt: skip
    table = pd.read_csv("l.csv")
    assert list(table) == ["dataset", "model", *leaderboard.QUALITY, *leaderboard.COST]
    assert table[["dataset", "model"]].to_numpy().tolist() == [
        ["tiny", "ensemble"], ["tiny", "svm"], ["texts", "ensemble"], ["texts", "svm"],
    ]  # fmt: skip
    assert table["macro_f1"].tolist() == [0.5, 0.5, 0.4, 0.4]
    assert table["accuracy"].isna().tolist() == [False, False, True, True]
    shown = Path("l.md").read_text(encoding="utf-8")
    assert shown.startswith("## tiny\n\n| model | rows | log_loss | accuracy |")
    assert "\n\n## texts\n\n| model | rows | log_loss | macro_f1 | wall_seconds |" in shown
