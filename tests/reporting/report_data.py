"""Small made-up results of one dataset, as the other stages write them, for report and card."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.layout import Layout
from stages.core.tables import write_json, write_table
from stages.core.tasks import TASKS
from stages.evaluation import score
from stages.evaluation.scoring.metrics import scored

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
MODELS = ("svm", "minilm", "never")  # beside the ensemble; minilm on one fold, never on none


def write_results(folder: Path, kind: str, n_train: int = N_TRAIN) -> Layout:
    """Write everything that `report` reads of the dataset `mine`; where it lies."""
    layout = Layout("mine", folder)
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
        layout.folds,
    )
    write_table(_rows(kind, ids, part).join(targets), layout.rows)
    write_json({"kind": kind, "classes": list(task.classes)}, layout.labels)
    for model, noise in {"svm": 0.6, "minilm": 1.0, "never": 0.0, "ensemble": 0.5}.items():
        p = task.link(0.8 * scores + noise * rng.normal(size=(n, k)))
        if model == "ensemble":
            hit = y[3] if task.exclusive else y[3] >= 0.5
            p[3] = np.where(hit, 1e-6, (1 - 1e-6 * hit.sum()) / (~hit.astype(bool)).sum())
        kept = {"minilm": fold == 0, "never": fold == 9}.get(model, np.ones(n, bool))
        _write_model(layout, task, model, ids, part, y, p, kept, fold)
    write_json(
        {
            "rows": n_train, "temperature": 1.0, "product": 0.0,
            "weight": {"svm": 1.0, "minilm": 0.0},
            "member_log_loss": {"svm": 1.0, "minilm": 1.1},
            "nested_log_loss": dict.fromkeys(("mixture", "sharpened", "product"), 1.0),
        },
        layout.weights,
    )  # fmt: skip
    share = dict.fromkeys(task.classes, 0.1)
    write_json({"raw_rows": n, "rejects": 0, "share": share}, layout.ingest)
    write_json({"groups": 130, "leaks": 1, "leak_share": 0.05}, layout.split)
    write_json(_audit(kind), layout.audit)
    shares = np.linspace(0, 1, 5)
    cascade = {
        "cheap": "svm",
        "threshold": 2 - 1.5 * shares,
        "cheap_share": shares,
        "log_loss": 1 + 0.1 * shares,
    }
    write_table(pd.DataFrame(cascade), layout.cascade_curve)
    chosen = {"rows": n_train, "threshold": 0.6, "chosen": 1.0, "cheap_share": 0.3}
    chosen["log_loss"] = {"cascade": 1.0, "cheap": 1.1, "ensemble": 0.999}
    write_json(chosen | {"lost": {"mean": 0.001, "standard_error": 0.001}}, layout.cascade)
    curve = {"model": ["svm"] * 3, "fraction": [0.1, 0.3, 1.0], "rows": [16.0, 48.0, 160.0]}
    loss = {"log_loss": [1.1, 1.05, 1.0], "log_loss_standard_error": 0.01, "macro_f1": 0.4}
    write_table(pd.DataFrame(curve | loss), layout.learning_curve("svm"))
    layout.params.parent.mkdir(exist_ok=True)
    layout.params.write_text("svm: {C: 1}\n", encoding="utf-8")
    write_json({"svm": {"C": 1, "of": HOSTILE}}, layout.used_params)
    return layout


def _audit(kind: str) -> dict[str, Any]:
    """What `audit` writes; figures that make every audit but one `ok`."""
    found: dict[str, Any] = {
        "duplicates": {
            "exact_leaks": 1.0, "leaks": 1.0, "leak_share": 0.05, "between_folds": 0.0,
            "duplicates_in_train": 120.0,
        },
        "folds": {"judged": 3.0, "spread": 0.1, "standard_error": 0.01, "chance": 0.5},
    }  # fmt: skip
    if kind != "preference":
        return found
    gain = {model: {"mean": 0.03, "standard_error": 0.01} for model in ("svm", "ensemble")}
    same = {"mean": 0.0, "standard_error": 0.01}
    return found | {
        "baselines": {
            base: {"log_loss": {"mean": loss, "standard_error": 0.01}, "gain": gain}
            for base, loss in (("longer", 1.05), ("style", 1.03))
        },
        "length": {"decile": {}, "longer_preferred": {}},
        "outcomes": {
            "tie": {"rows": 80.0, "log_loss": 1.1, "gain_over_class_shares": same},
            "decided": {"rows": 160.0, "log_loss": 0.9},
        },
        "position": {
            "lean_of_people": {"mean": 0.01, "standard_error": 0.02},
            "swap_error": dict.fromkeys(("svm", "ensemble"), 0.0),
        },
        "names": {"rows_with_names": 3.0, "rows_without_names": 237.0},
    }


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


def _write_model(layout, task, model, ids, part, y, p, kept, fold):
    names = {f"p_{name}": p[:, k] for k, name in enumerate(task.classes)}
    if task.symmetric:
        swapped = task.swap_classes(p)
        names |= {f"swapped_p_{name}": swapped[:, k] for k, name in enumerate(task.classes)}
    table = pd.DataFrame({"id": ids, "part": np.where(part == "train", "oof", part)} | names)
    write_table(table[kept], layout.predictions(model))
    write_json(COST, layout.cost(model))
    rows = np.flatnonzero(kept & (part == "train"))
    if not len(rows):
        write_json({"oof": {"rows": 0}}, layout.scores(model))
        return
    limits = np.full(len(task.classes), 0.5)
    oof = scored(task, y[rows], p[rows], rows, limits)
    found = score.score(oof) | ({"swap_error": 0.0} if task.symmetric else {})
    write_json({"oof": found}, layout.scores(model))
    write_json(
        {} if task.exclusive else dict(zip(task.classes, limits.tolist(), strict=True)),
        layout.thresholds(model),
    )
    write_table(score.report(oof, limits).assign(part="oof"), layout.classes(model))
    write_table(score.confusion(task, oof.actual, oof.given), layout.confusion(model))
    write_table(
        score.reliability(y[rows], p[rows], task.classes, oof.group),
        layout.reliability(model),
    )
