"""Several models that differ by their seed or fold alone: their seeds and their names."""

import re
from pathlib import Path

STEP = 1000  # between the seeds of a fold's models; folds are neighbours


def nth_seed(seed: int, number: int) -> int:
    """The seed of model `number` (from 0) of those that start at `seed`."""
    return seed + STEP * number


def nth_name(name: str, number: int) -> str:
    """The name of model `number` of those of `name`."""
    return f"{name}.seed{number}"


def by_number(path: Path) -> list[int]:
    """A key that sorts files of such models as they were fitted: fold2 before fold10."""
    return [int(digits) for digits in re.findall(r"\d+", path.name)]
