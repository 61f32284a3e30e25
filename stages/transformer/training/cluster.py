"""Fine-tuning on a Ray cluster: Ray Train runs the same main in many processes.

There is one process for each GPU of the cluster, or, without GPUs, one for each node with all its
CPUs. All nodes must share the storage of the working directory. If a process dies, all of them
restart from the last checkpoint.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages.runtime import cluster, parallel

log = logging.getLogger("verdict")

# Variables of the process that starts the work that are set in the workers too.
PASSED_ON = ("ACCELERATE_", "CUDA_", "DVC_", "HF_", "MLFLOW_", "NCCL_", "PYTORCH_", "TORCH_",
             "VERDICT_TRACKING")  # fmt: skip
RAYS_OWN = "CUDA_VISIBLE_DEVICES"  # Ray gives each worker its GPU


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that are set in the workers too."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PASSED_ON) and name != RAYS_OWN
    }


def train(function: Callable[..., None], options: Mapping[str, Any], storage: Path) -> None:
    """Run `function(**options)` in each process of a torch.distributed group over the cluster.

    Args:
        function: A function of a module that the workers can import.
        options: Its keyword arguments.
        storage: A folder for Ray Train's own files, which all nodes share.

    Raises:
        InputError: The cluster cannot be used, or `function` raised it in a process.
    """
    ray = cluster.connect()
    from ray.train.torch import TorchTrainer

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    own = [node for node in nodes if node.get("GPU", 0) >= 1]  # nodes with GPUs
    cores, gpus = cluster.cores(), sum(int(node["GPU"]) for node in own)
    n = gpus or len(cores)
    shares = [int(node.get("CPU", 0)) // int(node["GPU"]) for node in own]
    cpus = max(1, min(shares)) if gpus else min(cores)
    here = Path.cwd()
    variables = passed_on(os.environ)

    def work() -> None:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        os.environ.update(variables)
        os.environ[parallel.WORKERS] = str(cpus * local)
        os.chdir(here)
        log.setLevel(logging.INFO)
        function(**options)

    cluster.fit(
        TorchTrainer,
        work,
        storage,
        num_workers=n,
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": cpus, "GPU": 1} if gpus else {"CPU": cpus},
        placement_strategy="SPREAD",
    )
