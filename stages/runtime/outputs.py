"""Where a tool may write: told before it works, and never over what it did not make."""

import os
from pathlib import Path


def file_faults(*outputs: Path) -> list[str]:
    """Why these, in one folder, cannot be files."""
    folders = [path for path in outputs if path.is_dir()]
    told = [f"{path}: is a folder; expected the name of a file" for path in folders]
    return [*place_faults(outputs[0]), *told]


def folder_faults(output: Path) -> list[str]:
    """Why `output` cannot take a folder."""
    if output.is_dir() and not any(output.iterdir()):
        return []
    if output.exists():
        return [f"{output}: is there already; expected a new folder"]
    return place_faults(output)


def place_faults(output: Path) -> list[str]:
    """Why nothing can be written beside `output`, in folders that may have to be made."""
    place = next(path for path in output.absolute().parents if path.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return []
    return [f"{output}: cannot be written, got {place}; expected a folder that you may write to"]
