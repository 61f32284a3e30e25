"""What the boosters share: params, and fits by several processes of a cluster.

For fits that one node has no memory or time for. The processes add up their histograms each round
(Ray Train sets up the network, the library does the rest), and draw bins from all shares: another
number of processes gives other trees, so it is a param and not chosen by the address.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from stages.core.errors import InputError
from stages.core.stopping import StoppingParams
from stages.core.tasks import Task
from stages.models.fitting.model import Runs
from stages.models.fitting.sample import Sample
from stages.models.fitting.seeds import SeededParams
from stages.runtime import cluster


class BoostingParams(SeededParams):
    """What both boosters have: `workers` above 1 share the rows of each fit."""

    rounds: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    stopping: StoppingParams | None = None
    workers: Annotated[int, Field(ge=1)] = 1

    def own(self) -> dict[str, Any]:
        """The params that the library itself knows, by its own names."""
        ours = {*SeededParams.model_fields, *self.sources(), "rounds", "stopping", "workers"}
        return self.model_dump(exclude=ours)


def spread_if_shared(task: Task, params: BoostingParams) -> Runs:  # noqa: ARG001
    """A fit that several processes share runs alone."""
    return "spread" if params.workers > 1 else "threads"


STORAGE = Path("scratch") / "boosting"

# (its share of the rows, the whole holdout, params of the network) -> model, its best rounds
Grow: TypeAlias = Callable[[Sample, Sample | None, dict[str, Any]], tuple[Any, Any]]


def grow_together(
    library: Literal["xgboost", "lightgbm"],
    grow: Grow,
    part: Sample,
    holdout: Sample | None,
    workers: int,
) -> tuple[Any, Any]:
    """What `grow` returns in the first of `workers` processes.

    Every process judges by the same holdout, so that all stop in the same round.

    Raises:
        InputError: There is no cluster, or it has fewer CPUs.
    """
    if not cluster.is_given():
        raise InputError(
            f"workers: got {workers}; expected 1, or a cluster (RAY_ADDRESS, docs/cluster.md)"
        )
    ray = cluster.connect()
    if workers > sum(cluster.cores()):
        raise InputError(f"workers: got {workers}; expected at most the CPUs of the cluster")
    if library == "xgboost":
        from ray.train.xgboost import XGBoostTrainer as Trainer
    else:
        from ray.train.lightgbm import LightGBMTrainer as Trainer
    shares = [
        ray.put(part.take(np.arange(rank, len(part.weight), workers))) for rank in range(workers)
    ]
    held = ray.put(holdout)

    def work() -> tuple[Any, Any]:
        network: dict[str, Any] = {}
        if library == "lightgbm":
            from ray.train.lightgbm import get_network_params

            network = get_network_params() | {"tree_learner": "data", "pre_partition": True}
        rank = ray.train.get_context().get_world_rank()
        return grow(ray.get(shares[rank]), ray.get(held), network)

    found: tuple[Any, Any] = cluster.fit(Trainer, work, STORAGE, num_workers=workers)
    return found
