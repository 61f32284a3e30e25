"""Several models that differ by their seed alone: their seeds and their names."""

STEP = 1000  # between the seeds of a fold's models; folds are neighbours


def nth_seed(seed: int, number: int) -> int:
    """The seed of model `number` (from 0) of those that start at `seed`."""
    return seed + STEP * number


def nth_name(name: str, number: int) -> str:
    """The name of model `number` of those of `name`."""
    return f"{name}.seed{number}"
