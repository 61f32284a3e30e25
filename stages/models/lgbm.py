"""LightGBM on tf-idf (its latent semantic coordinates) and style features.

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions. Boosters
want few dense columns: on the sparse matrix itself a fit takes ten times as long. Each model runs
on one thread, the folds side by side.

    python -m stages.models.lgbm --dataset demo
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
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

Rounds: TypeAlias = tuple[int, ...]  # of each booster


class LgbmParams(BoostingParams):
    """Section `lgbm`: LightGBM's own names and meanings, but for `rounds` and `workers`."""

    num_leaves: Annotated[int, Field(ge=2)] = 15
    min_data_in_leaf: Annotated[int, Field(ge=1)] = 40
    bagging_fraction: Share = 0.7
    feature_fraction: Share = 0.3
    lambda_l1: Annotated[float, Field(ge=0)] = 0.0
    lambda_l2: Annotated[float, Field(ge=0)] = 20.0
    max_bin: Annotated[int, Field(ge=2)] = 63
    extra_trees: bool = True
    lsa: SourceParams = SourceParams()
    style: SourceParams = SourceParams()

    def booster(self, task: Task, seed: int) -> dict[str, Any]:
        """The params in LightGBM's form."""
        objective = (
            {"objective": "multiclass", "num_class": len(task.classes)}
            if task.exclusive
            else {"objective": "cross_entropy"}  # binary log loss that takes soft targets
        )
        fixed = {
            "bagging_freq": 1, "seed": seed, "verbosity": -1, "num_threads": 1,
            "deterministic": True, "force_row_wise": True, "data_random_seed": self.seed,
        }  # fmt: skip
        return {**self.own(), **objective, **fixed}


@dataclass(frozen=True)
class Lgbm:
    """A fitted booster, or one a class."""

    boosters: tuple[Any, ...]

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`."""
        return np.column_stack([booster.predict(X, num_threads=1) for booster in self.boosters])

    def save(self, stem: Path) -> None:
        """Write `<stem>.txt`, or `<stem>.<class number>.txt` for each class."""
        for booster, path in zip(self.boosters, _paths(stem, len(self.boosters)), strict=True):
            booster.save_model(path)

    @classmethod
    def load(cls, stem: Path, task: Task) -> "Lgbm":
        """Read what `save` wrote.

        Raises:
            ValueError: It is damaged.
        """
        import lightgbm

        paths = _paths(stem, 1 if task.exclusive else len(task.classes))
        try:
            return cls(tuple(lightgbm.Booster(model_file=path) for path in paths))
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error


Grown: TypeAlias = tuple[Lgbm, Rounds]


def _paths(stem: Path, n: int) -> list[str]:
    return [f"{stem}.{number}.txt" for number in range(n)] if n > 1 else [f"{stem}.txt"]


def fit(sample: Sample, params: LgbmParams, seed: int) -> Fitted:
    """Fit, with early stopping where the params ask for it."""
    import lightgbm

    def bins(part: Sample) -> Any:
        return lightgbm.Dataset(part.X, weight=part.weight)

    def grow(part: Sample, rounds: Rounds, holdout: Sample | None, seed: int) -> Grown:
        if params.workers == 1:
            return boost(whole if part is sample else bins(part), part, rounds, holdout, seed, {})
        return grow_together(
            "lightgbm",
            lambda share, held, network: boost(bins(share), share, rounds, held, seed, network),
            part, holdout, params.workers,
        )  # fmt: skip

    def boost(
        data: Any, part: Sample, rounds: Rounds, holdout: Sample | None, seed: int,
        network: dict[str, Any],
    ) -> Grown:  # fmt: skip
        labels = [(data, _labels(part))]
        watch: dict[str, Any] = {}
        if holdout is not None and params.stopping is not None:
            held = lightgbm.Dataset(holdout.X, weight=holdout.weight, reference=data)
            labels.append((held, _labels(holdout)))
            stop = lightgbm.early_stopping(params.stopping.patience, verbose=False)
            watch = {"valid_sets": [held], "callbacks": [stop]}
        boosters = []
        settings = params.booster(part.task, seed) | network
        for number, most in enumerate(rounds):
            for dataset, own in labels:
                dataset.set_label(own[number])
            boosters.append(lightgbm.train(settings, data, most, **watch))
        best = tuple(booster.best_iteration for booster in boosters) if watch else rounds
        return Lgbm(tuple(boosters)), best

    sample = sample.both_orders()
    whole = bins(sample)  # filled once, they serve all boosters and all seeds
    rounds = (params.rounds,) * len(_labels(sample))
    return fit_rounds(sample, params.stopping, rounds, params.all_seeds(seed), grow)


def _labels(sample: Sample) -> npt.NDArray[Any]:
    """`(n_boosters, n_rows)`: LightGBM knows one label a row; a class of several has its own."""
    return sample.y.T if sample.y.ndim == 2 else sample.y[None]


MODEL = Model("lgbm", LgbmParams, fit, Lgbm.load, runs=spread_if_shared)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
