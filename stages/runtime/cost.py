"""What a training stage costs.

Kept in files that no training stage depends on, since they differ from run to run.
"""

import resource
import sys
import time
from pathlib import Path

from stages.core.tables import write_json


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


class Cost:
    """Starts with the stage; `write` ends it."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def write(
        self,
        path: Path,
        *,
        fitted: Path,
        predict_ms_per_row: float,
        gpu_memory_mb: float | None = None,
    ) -> dict[str, float]:
        """Write and return seconds, peak memory and the size of `fitted` (a file or folder).

        CPU time and memory are those of the whole process from its start, imports included; wall
        time starts with the stage. `gpu_memory_mb` is None where no GPU was used.
        """
        usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, else KiB
        spent = {
            "wall_seconds": round(time.perf_counter() - self._started, 3),
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
            "peak_memory_mb": round(max(u.ru_maxrss for u in usage) * unit / 2**20, 1),
            "fitted_size_mb": round(size_on_disk(fitted) / 2**20, 3),
            "predict_ms_per_row": round(predict_ms_per_row, 4),
        }
        if gpu_memory_mb is not None:
            spent["gpu_memory_mb"] = round(gpu_memory_mb, 1)
        write_json(spent, path)
        return spent
