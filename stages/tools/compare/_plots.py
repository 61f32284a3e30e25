"""The plots that changed between two revisions, as images: both sides in one picture.

DVC makes the Vega-Lite specifications (`dvc plots diff`), vl-convert draws them, without a browser
or a network.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.tables import atomic
from stages.tools.compare._revisions import Revision

SCALE = 1.5  # pixels for one of a specification


def write_plots(before: Revision, after: Revision, folder: Path) -> None:
    """Write `<kind>-<dataset>-<model>.png` for each plot whose file differs."""
    import vl_convert

    with atomic(folder) as temporary:
        temporary.mkdir()
        for path, specification in specifications(before, after).items():
            old, new = (
                side.read(path) if side.fs.exists(path) else None for side in (before, after)
            )
            if old != new:
                name = Path(path).with_suffix(".png").as_posix().removeprefix("metrics/")
                image = vl_convert.vegalite_to_png(specification, scale=SCALE)
                (temporary / name.replace("/", "-")).write_bytes(image)


def specifications(before: Revision, after: Revision) -> dict[str, Any]:
    """Vega-Lite of each plot of dvc.yaml, with the rows of both sides, by its file."""
    ends = [revision.commit for revision in (before, after) if revision.commit]
    command = [sys.executable, "-m", "dvc", "plots", "diff", *ends, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise InputError(f"{' '.join(command)}: {done.stderr.strip()}")
    plots = json.loads(done.stdout)["data"]
    return {
        path: entries[0]["content"]
        for path, entries in plots.items()
        if entries and entries[0]["type"] == "vega"
    }
