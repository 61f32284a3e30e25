"""Fine-tuning on a Ray cluster: the same main in many processes, by Ray Train.

One process for each GPU of the cluster, or, where it has none, for each node with all its CPUs.
Folder and files are on storage that all nodes see. A process that dies ends all of them, and they
start anew from the last checkpoint.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages.runtime import cluster, parallel

log = logging.getLogger("verdict")

# Variables of the process that starts the work which count in the workers too.
PASSED_ON = ("ACCELERATE_", "DVC_", "HF_", "MLFLOW_", "VERDICT_TRACKING")


def train(function: Callable[..., None], options: Mapping[str, Any], storage: Path) -> None:
    """Run `function(**options)` in each process of a torch.distributed group over the cluster.

    Args:
        function: Of an importable module.
        options: Its options.
        storage: A folder for Ray Train's own files, seen by all nodes.

    Raises:
        InputError: The cluster cannot be used, or what `function` raised in a process.
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
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}

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
