"""Small made-up results of one dataset, as the other stages write them, for report and card."""

from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.tables import write_json, write_table
from stages.core.tasks import TASKS
from stages.evaluation import score

HOSTILE = (
    "<script>window.hacked = 1</script></script><img src=x onerror='window.hacked = 1'>"
    '"\' onmouseover="window.hacked = 1" --> ]]> {{ 7 * 7 }} ${7*7} \u2028 \u202e 漢字 🙂 \x00'
)
MARKDOWN = (
    "# Big\n\n**bold** [link](javascript:alert(1)) ![i](http://example.com/x.png) <b>no</b>\n\n"
    "| a | b |\n| :- | -: |\n| 1 | 2 |\n\n"
    '```html" onload="x\n</code><script>hacked()</script>\n```\n'
)
CLASSES = {
    "preference": ("a", "b", "tie"),
    "single_label": ("nan", "<b>bold</b>", "c.d[0]"),
    "multi_label": tuple(f"class {k}" for k in range(12)),
}
COST = {
    "wall_seconds": 1.25, "cpu_seconds": 2.0, "peak_memory_mb": 300.0, "fitted_size_mb": 0.5,
    "predict_ms_per_row": 0.12,
}  # fmt: skip
N_TRAIN, N_TEST = 240, 20
MODELS = ("svm", "minilm", "never", "ensemble")  # minilm on one fold, never on none


def write_results(folder: Path, kind: str, n_train: int = N_TRAIN) -> dict[str, Path]:
    """Write everything that `report` reads; the paths by the options of its `main`."""
    rng = np.random.default_rng(0)
    task = TASKS[kind](CLASSES[kind])
    n, k = n_train + N_TEST, len(task.classes)
    scores = rng.normal(size=(n, k)) - (0 if task.exclusive else 1.5)
    truth = task.link(scores + rng.normal(size=(n, k)))
    y = np.eye(k)[truth.argmax(axis=1)] if task.exclusive else (truth > 0.5).astype(float)
    ids = [f"{HOSTILE if i == 3 else 'row'} {i}" for i in range(n)]
    part = np.where(np.arange(n) < n_train, "train", "test")
    fold = np.where(part == "train", np.arange(n) % 3, -1)
    y[n_train:] = np.nan
    targets = pd.DataFrame(y, columns=[f"y_{name}" for name in task.classes])
    write_table(
        pd.DataFrame({"id": ids, "part": part, "fold": fold, "group": np.arange(n) // 2}).join(
            targets
        ),
        folder / "folds.parquet",
    )
    write_table(_rows(kind, ids, part).join(targets), folder / "rows.parquet")
    write_json({"kind": kind, "classes": list(task.classes)}, folder / "labels.json")
    for model, noise in {"svm": 0.6, "minilm": 1.0, "never": 0.0, "ensemble": 0.5}.items():
        p = task.link(0.8 * scores + noise * rng.normal(size=(n, k)))
        if model == "ensemble":
            hit = y[3] if task.exclusive else y[3] >= 0.5
            p[3] = np.where(hit, 1e-6, (1 - 1e-6 * hit.sum()) / (~hit.astype(bool)).sum())
        kept = {"minilm": fold == 0, "never": fold == 9}.get(model, np.ones(n, bool))
        _write_model(folder, task, model, ids, part, y, p, kept, fold)
    ensemble = {"rows": n_train, "svm": 1.0, "minilm": 0.0, "svm_log_loss": 1.0}
    more = {"minilm_log_loss": 1.1, "temperature": 1.0, "product": 0.0}
    forms = ("mixture", "sharpened", "product")
    nested = {f"{form}_nested_log_loss": 1.0 for form in forms}
    write_json(ensemble | more | nested, folder / "weights.json")
    shares = {f"share_{name}": 0.1 for name in task.classes}
    write_json({"raw_rows": n, "rejects": 0} | shares, folder / "ingest.json")
    write_json({"groups": 130, "leaks": 1, "leak_share": 0.05}, folder / "split.json")
    write_json(_audit(kind), folder / "audit.json")
    shares = np.linspace(0, 1, 5)
    cascade = {
        "cheap": "svm",
        "threshold": 2 - 1.5 * shares,
        "cheap_share": shares,
        "log_loss": 1 + 0.1 * shares,
    }
    cascade["predict_ms_per_row"] = 2 - shares
    write_table(pd.DataFrame(cascade), folder / "cascade.csv")
    chosen = {"rows": n_train, "ensemble_predict_ms_per_row": 2.0, "log_loss_lost": 0.001}
    chosen |= {"log_loss_lost_standard_error": 0.001, "cheap_share": 0.3, "threshold": 0.6}
    chosen["chosen"] = 1.0
    write_json(chosen | {"log_loss": 1.0, "predict_ms_per_row": 1.2}, folder / "cascade.json")
    (folder / "curves").mkdir()
    curve = {"model": ["svm"] * 3, "fraction": [0.1, 0.3, 1.0], "rows": [16.0, 48.0, 160.0]}
    loss = {"log_loss": [1.1, 1.05, 1.0], "log_loss_standard_error": 0.01, "macro_f1": 0.4}
    write_table(pd.DataFrame(curve | loss), folder / "curves" / "mine.csv")
    (folder / "params.yaml").write_text(f"svm: {{C: 1}}  # {HOSTILE}\n", encoding="utf-8")
    folders = {"predictions", "scores", "cost", "classes", "confusion", "reliability"}
    files = {"labels": "labels.json", "folds": "folds.parquet", "rows": "rows.parquet",
             "weights": "weights.json", "ingest": "ingest.json", "split": "split.json",
             "audit": "audit.json", "cascade": "cascade.json", "cascade_curve": "cascade.csv",
             "thresholds": "thresholds.json", "learning_curves": "curves",
             "params_file": "params.yaml", "html_out": "report.html"}  # fmt: skip
    return {name: folder / name for name in folders} | {
        name: folder / file for name, file in files.items()
    }


def _audit(kind: str) -> dict[str, float]:
    """What `audit` writes; figures that make every audit but one `ok`."""
    found = {
        "exact_leaks": 1.0, "leaks": 1.0, "leak_share": 0.05, "between_folds": 0.0,
        "duplicates_in_train": 120.0, "folds_judged": 3.0, "fold_spread": 0.1,
        "fold_standard_error": 0.01, "fold_chance": 0.5,
    }  # fmt: skip
    if kind != "preference":
        return found
    found |= {"longer_log_loss": 1.05, "style_log_loss": 1.03, "rows_with_models": 3.0}
    for model in ("svm", "ensemble"):
        found |= {f"{model}_swap_error": 0.0}
        for base in ("longer", "style"):
            found |= {f"{model}_gain_over_{base}": 0.03}
            found |= {f"{model}_gain_over_{base}_standard_error": 0.01}
    return found | {
        "tie_rows": 80.0, "tie_log_loss": 1.1, "tie_gain_over_class_shares": 0.0,
        "tie_gain_over_class_shares_standard_error": 0.01, "decided_log_loss": 0.9,
        "lean_of_people": 0.01, "lean_of_people_standard_error": 0.02,
        "length_decile_1_log_loss": 1.0, "length_decile_1_gain_over_longer": 0.1,
    }  # fmt: skip


def _rows(kind: str, ids: list[str], part: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame({"id": ids, "part": part})
    words = [f"{'слово' if i % 4 == 0 else 'word'} {i} " * (1 + i % 9) for i in range(len(ids))]
    words[3], words[4] = HOSTILE, ""
    if kind != "preference":
        return rows.assign(text=words)
    return rows.assign(
        prompt=[[w] * (1 + i % 3) for i, w in enumerate(words)],
        response_a=[[MARKDOWN, HOSTILE, None] if i == 3 else [w * 2] for i, w in enumerate(words)],
        response_b=[["```\ncode\n```" if i % 2 else "b" * (i % 50)] for i in range(len(ids))],
    )


def _write_model(folder, task, model, ids, part, y, p, kept, fold):
    names = {f"p_{name}": p[:, k] for k, name in enumerate(task.classes)}
    if task.symmetric:
        swapped = task.swap_classes(p)
        names |= {f"swapped_p_{name}": swapped[:, k] for k, name in enumerate(task.classes)}
    table = pd.DataFrame({"id": ids, "part": np.where(part == "train", "oof", part)} | names)
    write_table(table[kept], folder / "predictions" / f"{model}.parquet")
    write_json(COST, folder / "cost" / f"{model}.json")
    rows = np.flatnonzero(kept & (part == "train"))
    if not len(rows):
        write_json({"rows": 0}, folder / "scores" / f"{model}.json")
        return
    limits = np.full(len(task.classes), 0.5)
    oof = score.scored(task, y[rows], p[rows], rows, limits)
    found = score.score(task, oof) | ({"swap_error": 0.0} if task.symmetric else {})
    write_json(found, folder / "scores" / f"{model}.json")
    write_json(
        {} if task.exclusive else dict(zip(task.classes, limits.tolist(), strict=True)),
        folder / "thresholds.json",
    )
    write_table(
        score.report(task, oof, limits).assign(part="oof"), folder / "classes" / f"{model}.csv"
    )
    write_table(score.confusion(task, oof.actual, oof.given), folder / "confusion" / f"{model}.csv")
    write_table(
        score.reliability(y[rows], p[rows], task.classes, oof.group),
        folder / "reliability" / f"{model}.csv",
    )
