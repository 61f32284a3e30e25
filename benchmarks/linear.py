"""Cross-fitting of the stage `logreg` beside scikit-learn's default, on one set's stored features.

    dvc repro logreg@goemotions_single          # makes the features; then, on one core:
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 VERDICT_WORKERS=1 \
        python benchmarks/linear.py --dataset goemotions_single --peer-folds 1

The peer is `LogisticRegression()` as documented, on the same design and folds, which is what
`cross_val_predict` does. A fit of it takes minutes: `--peer-folds` fits so many folds only, and
both log losses and times are then of these folds. For text sets with one label.
"""

import time
import warnings

import cyclopts
import numpy as np
from sklearn.linear_model import LogisticRegression

from stages.core.folds import read_folds
from stages.core.layout import Layout
from stages.core.params import read_params
from stages.core.tasks import read_task
from stages.models import logreg
from stages.models.fitting.crossfit import crossfit
from stages.models.fitting.design import Encoder
from stages.models.fitting.train import read_sets


def main(*, dataset: str = "goemotions_single", peer_folds: int = 5):
    """Print a table of CPU seconds and log losses."""
    layout = Layout(dataset)
    params = read_params(logreg.LogregParams, layout, logreg.MODEL.name)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    sets = read_sets(layout, ("tfidf", "style"), folds.ids)
    started = time.process_time()
    ours = crossfit(
        task, folds, sets, params.sources(),
        lambda sample, seed: logreg.fit(sample, params, seed),
        balance=params.balance, seed=params.seed,
    )  # fmt: skip
    ours_seconds = (time.process_time() - started) * peer_folds / len(folds.numbers)

    rows = folds.judged
    X = Encoder.fit(task, params.sources(), sets, rows)(sets, rows).X
    y, fold = folds.targets[rows].argmax(axis=1), folds.fold[rows]
    chosen = np.isin(fold, folds.numbers[:peer_folds])
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it does not converge in its 100 steps
        theirs = np.full((len(rows), len(task.classes)), np.nan)
        for number in folds.numbers[:peer_folds]:
            held = fold == number
            model = LogisticRegression().fit(X[~held], y[~held])
            theirs[held] = model.predict_proba(X[held])
    peer_seconds = time.process_time() - started

    def loss(values: np.ndarray) -> float:
        return float(task.row_losses(folds.targets[rows][chosen], values[chosen]).mean())

    print(f"\n{dataset}: {len(rows)} rows, {len(task.classes)} classes, {peer_folds} folds\n")
    print("| | CPU s | log loss |\n| --- | ---: | ---: |")
    print(f"| verdict | {ours_seconds:.1f} | {loss(ours.probabilities[rows]):.4f} |")
    print(f"| LogisticRegression() | {peer_seconds:.1f} | {loss(theirs):.4f} |")
    print(f"\n{peer_seconds / ours_seconds:.1f} times as fast")


if __name__ == "__main__":
    cyclopts.run(main)
