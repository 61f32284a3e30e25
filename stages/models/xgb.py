"""XGBoost on word2vec and style features.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. Each model
runs on one thread (the folds run side by side), since the sums of several threads differ in their
last bits.

    python -m stages.models.xgb --dataset demo
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from stages.core.matrices import Floats, Matrix
from stages.core.tasks import Task
from stages.models._boosting import BoostingParams, grow_together, spread_if_shared
from stages.models._stopping import fit_rounds
from stages.models.fitting.design import SourceParams
from stages.models.fitting.model import Model
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import Share
from stages.models.fitting.seeds import Fitted
from stages.models.fitting.train import training_stage
from stages.runtime.cli import run


class XgbParams(BoostingParams):
    """Section `xgb`: XGBoost's own names and meanings, but for `rounds` and `workers`."""

    max_depth: Annotated[int, Field(ge=1)] = 4
    min_child_weight: Annotated[float, Field(ge=0)] = 5.0
    subsample: Share = 0.7
    colsample_bytree: Share = 0.3
    colsample_bynode: Share = 0.5
    reg_lambda: Annotated[float, Field(ge=0)] = 10.0
    reg_alpha: Annotated[float, Field(ge=0)] = 0.0
    max_bin: Annotated[int, Field(ge=2)] = 64
    word2vec: SourceParams = SourceParams()
    style: SourceParams = SourceParams()

    def booster(self, task: Task, seed: int) -> dict[str, Any]:
        """The params in XGBoost's form."""
        objective = (
            {"objective": "multi:softprob", "num_class": len(task.classes)}
            if task.exclusive
            else {"objective": "binary:logistic"}  # a tree a class, one round after the other
        )
        fixed = {
            **objective,
            "tree_method": "hist",
            "nthread": 1,
            "seed": seed,
        }
        return {**self.own(), **fixed}


@dataclass(frozen=True)
class Xgb:
    """A fitted booster."""

    booster: Any
    n_classes: int

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        found = np.asarray(self.booster.inplace_predict(X), np.float64)
        return found.reshape(-1, self.n_classes)

    def save(self, stem: Path) -> None:
        """Write `<stem>.ubj`."""
        self.booster.save_model(f"{stem}.ubj")

    @classmethod
    def load(cls, stem: Path, task: Task) -> "Xgb":
        """Read what `save` wrote."""
        import xgboost

        return cls(xgboost.Booster({"nthread": 1}, model_file=f"{stem}.ubj"), len(task.classes))


def fit(sample: Sample, params: XgbParams, seed: int) -> Fitted:
    """Fit, with early stopping where the params ask for it."""
    import xgboost

    def bins(part: Sample, ref: Any = None) -> Any:
        return xgboost.QuantileDMatrix(
            part.X, part.y, weight=part.weight, ref=ref, max_bin=params.max_bin, nthread=1
        )

    def grow(part: Sample, rounds: int, holdout: Sample | None, seed: int) -> tuple[Xgb, int]:
        if params.workers == 1:
            return boost(whole if part is sample else bins(part), rounds, holdout, seed)
        return grow_together(
            "xgboost", lambda share, held, _: boost(bins(share), rounds, held, seed),
            part, holdout, params.workers,
        )  # fmt: skip

    def boost(data: Any, rounds: int, holdout: Sample | None, seed: int) -> tuple[Xgb, int]:
        watch: dict[str, Any] = {}
        if holdout is not None and params.stopping is not None:
            watch = {
                "evals": [(bins(holdout, data), "holdout")],
                "early_stopping_rounds": params.stopping.patience,
                "verbose_eval": False,
            }
        booster = xgboost.train(params.booster(task, seed), data, rounds, **watch)
        return Xgb(booster, n_classes), booster.best_iteration + 1 if watch else rounds

    sample = sample.both_orders()
    task, n_classes = sample.task, sample.n_classes
    whole = bins(sample) if params.workers == 1 else None  # filled once, they serve all seeds
    return fit_rounds(sample, params.stopping, params.rounds, params.all_seeds(seed), grow)


MODEL = Model("xgb", XgbParams, fit, Xgb.load, runs=spread_if_shared)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
