"""Rows of files, chunk by chunk, through a trained pipeline: here, or on a cluster with Ray Data.

A chunk is the unit of both: so each gets the same bytes, wherever it is predicted.
"""

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.tables import ID
from stages.data.readers.rows import Reject, Row
from stages.runtime import cluster
from stages.serving.pipeline import Pipeline, as_frame

CHUNK = 2000  # rows in memory at once
REJECTED = ["line", ID, "reason"]
SMALL = 1 << 20  # bytes of chunks that travel as one block of Ray Data
READING = 0.5  # CPUs of a task that reads: other than predicting, or Ray Data would join the two

Records = Iterable[Row | Reject]
Chunk = list[Row | Reject]


@dataclass(frozen=True)
class Predicted:
    """The predictions and rejects of a chunk of the file number `source`."""

    source: int
    rows: pd.DataFrame
    rejects: pd.DataFrame


def chunks(records: Records) -> Iterator[Chunk]:
    """The records, in lists of `CHUNK`; no more is read than was asked for."""
    stream = iter(records)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def apply(pipeline: Pipeline, chunk: Chunk, source: int) -> Predicted:
    """Predict a chunk."""
    rows = [record for record in chunk if isinstance(record, Row)]
    frame = pipeline.predict(as_frame(rows, pipeline.task))
    frame.insert(0, ID, [row.id for row in rows])
    lost = [(r.line, r.id, r.reason) for r in chunk if isinstance(r, Reject)]
    return Predicted(source, frame, pd.DataFrame(lost, columns=REJECTED))


def predict(
    sources: Sequence[Path],
    read: Callable[[Path], Records],
    pipeline: Pipeline,
    load: Callable[[], Pipeline],
) -> Iterator[Predicted]:
    """Predict files, in their order.

    Args:
        sources: The files; on a cluster all nodes see them.
        read: The records of a file.
        pipeline: Predicts here.
        load: Loads the pipeline in a worker of a cluster.
    """
    if cluster.is_given():
        paths = [path.resolve() for path in sources]
        yield from _on_cluster(paths, read, load, with_networks=pipeline.has_networks)
        return
    for number, path in enumerate(sources):
        for chunk in chunks(read(path)):
            yield apply(pipeline, chunk, number)


def _on_cluster(
    sources: Sequence[Path],
    read: Callable[[Path], Records],
    load: Callable[[], Pipeline],
    *,
    with_networks: bool,
) -> Iterator[Predicted]:
    """Files are read by tasks, chunks predicted by workers that load the pipeline once.

    There is a worker a core, or where networks are to run on GPUs, one a GPU.
    """
    ray = cluster.connect()
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = SMALL
    n_gpus = int(ray.cluster_resources().get("GPU", 0)) if with_networks else 0
    workers = ActorPoolStrategy(min_size=1, max_size=n_gpus or sum(cluster.cores()))
    files = [{"source": number, "path": str(path)} for number, path in enumerate(sources)]

    def cut(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for chunk in chunks(read(Path(file["path"]))):
            yield {"source": file["source"], "chunk": pickle.dumps(chunk)}

    found = (
        ray.data.from_items(files, override_num_blocks=len(files))
        .flat_map(cut, num_cpus=READING)
        .map(_Worker, fn_constructor_args=(load,), compute=workers, num_gpus=min(1, n_gpus))
    )
    with cluster.plain_errors():
        for row in found.iter_rows():
            yield pickle.loads(row["predicted"])  # noqa: S301 - from our own workers


class _Worker:
    """Holds the pipeline in a worker."""

    def __init__(self, load: Callable[[], Pipeline]) -> None:
        self.pipeline = load()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = pickle.loads(row["chunk"])  # noqa: S301 - from our own workers
        return {"predicted": pickle.dumps(apply(self.pipeline, chunk, row["source"]))}
