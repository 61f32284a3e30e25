r"""XGBoost on word2vec and style features.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. Each model
runs on one thread (the folds run side by side), since the sums of several threads differ in their
last bits.

    python -m stages.models.xgb --dataset demo --labels data/demo/labels.json \
        --folds data/demo/augmented/folds.parquet --word2vec data/demo/word2vec \
        --style data/demo/style.parquet --embed data/demo/embed --model models/demo/xgb \
        --predictions data/demo/predictions/xgb.parquet --trials metrics/trials/demo/xgb.csv \
        --cost metrics/cost/demo/xgb.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from stages.core.params import read_params
from stages.core.tasks import Floats, Matrix, Task
from stages.models._distributed import Workers, grow_together
from stages.models._stopping import StoppingParams, fit_rounds
from stages.models.fitting.design import SourceParams
from stages.models.fitting.sample import Sample
from stages.models.fitting.seeds import Model, SeededParams
from stages.models.fitting.train import train
from stages.runtime.cli import run

Share = Annotated[float, Field(gt=0, le=1)]


class XgbParams(SeededParams):
    """Section `xgb`: XGBoost's own names and meanings, but for `rounds` and `workers`."""

    rounds: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    max_depth: Annotated[int, Field(ge=1)]
    min_child_weight: Annotated[float, Field(ge=0)]
    subsample: Share
    colsample_bytree: Share
    colsample_bynode: Share
    reg_lambda: Annotated[float, Field(ge=0)]
    reg_alpha: Annotated[float, Field(ge=0)]
    max_bin: Annotated[int, Field(ge=2)]
    stopping: StoppingParams | None
    workers: Workers
    word2vec: SourceParams
    style: SourceParams

    def booster(self, task: Task, seed: int) -> dict[str, Any]:
        """The params in XGBoost's form."""
        own = {*SeededParams.model_fields, *self.sources(), "rounds", "stopping", "workers"}
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
        return {**self.model_dump(exclude=own), **fixed}


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


def fit(sample: Sample, params: XgbParams, seed: int) -> Model:
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


def main(
    *, dataset: str, labels: Path, folds: Path, word2vec: Path, style: Path, embed: Path,
    model: Path, predictions: Path, trials: Path, cost: Path,
) -> None:  # fmt: skip
    """Cross-fit XGBoost on word2vec and style."""
    params = read_params(XgbParams, dataset, "xgb")
    train(
        params, fit, dataset=dataset, labels=labels, folds=folds,
        sets={"word2vec": word2vec, "style": style, "embed": embed},
        model=model, predictions=predictions, trials=trials, cost=cost, spread=params.workers > 1,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
