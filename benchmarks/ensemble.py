"""How far weights of the ensemble should be pulled to equal ones, by the number of rows.

    python benchmarks/ensemble.py --dataset arena --rows 60 --rows 250 --rows 1000

Needs the trained models of the set. Rows are drawn from the train part without replacement, weights
are fitted on them and the form of the blend is chosen as in the stage. Printed are the log loss on
the other rows without a penalty, and what each penalty adds: means over draws, with their errors.
"""

import cyclopts
import numpy as np
from speed import row

from stages.core.folds import TRAIN, read_folds
from stages.core.layout import Layout
from stages.core.params import read_params
from stages.core.tables import PREDICTION
from stages.core.tasks import read_task
from stages.evaluation import ensemble
from stages.runtime import parallel

PENALTIES = (0.0, 1.0, 3.0, 10.0, 30.0)


def main(*, dataset: str, rows: list[int], draws: int = 30, seed: int = 0) -> None:
    """Print the table."""
    layout = Layout(dataset)
    task = read_task(layout.labels)
    folds = read_folds(layout.folds, task)
    names = ensemble.members_of(layout, read_params(ensemble.EnsembleParams, layout))
    stacks = ensemble.read_members(layout, names, folds.ids, task)
    names, stacks = ensemble.leave_out(names, stacks, folds)
    members = stacks[PREDICTION]
    known = (folds.part == TRAIN) & ~np.isnan(members).any(axis=(0, 2))
    rng = np.random.default_rng(seed)

    def loss(fitted: ensemble.Rows, penalty: float) -> float:
        ensemble.PENALTY = penalty
        tried = {
            form: ensemble.nested(task, members, folds, fitted, form)[0] for form in ensemble.FORMS
        }
        form = ensemble.choose(tried, folds.group[fitted])
        blend = ensemble.fit_blend(task, members[:, fitted], folds.targets[fitted], form)
        other = known & ~fitted
        return ensemble.log_loss(task, folds.targets[other], blend(members[:, other]))

    print(row(["rows", "no penalty", *(f"{penalty:g}" for penalty in PENALTIES[1:])]))
    print(row(["---:"] * (1 + len(PENALTIES))))
    for n in rows:
        losses = np.zeros((draws, len(PENALTIES)))
        for draw in losses:
            fitted = np.zeros(len(known), dtype=bool)
            fitted[rng.choice(np.flatnonzero(known), n, replace=False)] = True
            draw[:] = [loss(fitted, penalty) for penalty in PENALTIES]
        gains = losses - losses[:, :1]
        errors = gains.std(axis=0, ddof=1) / np.sqrt(draws)
        cells = [f"{losses[:, 0].mean():.4f}"]
        for mean, error in zip(gains.mean(axis=0)[1:], errors[1:], strict=True):
            cells.append(f"{mean:+.4f} ± {error:.4f}")
        print(row([f"{n:,}", *cells]), flush=True)


if __name__ == "__main__":
    with parallel.one_blas_thread():
        cyclopts.run(main)
