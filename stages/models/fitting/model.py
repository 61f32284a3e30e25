"""What a model is: one object at the end of its module, which all that know models read."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

from stages.core.errors import InputError
from stages.core.tasks import Task
from stages.models.fitting.design import SourceParams
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams
from stages.models.fitting.seeds import Fitted

P = TypeVar("P", bound=ModelParams)

# How the folds of a model run: side by side in threads, or in processes where fits hold a lock of
# their process; one after the other where each fit is spread over a cluster itself
Runs: TypeAlias = Literal["threads", "processes", "spread"]


def in_threads(task: Task, params: ModelParams) -> Runs:  # noqa: ARG001
    """How the folds of most models run."""
    return "threads"


@dataclass(frozen=True)
class Model(Generic[P]):
    """A model that is fitted on stored features.

    Attributes:
        name: That of its module, of its section of the params, and of its files.
        params: The class of its section; the fields that are `SourceParams` are its feature sets.
        fit: `(sample, params, seed)` to a fitted model.
        load: `(stem, task)` to the fitted model that was saved there.
        runs: How its folds run, by task and params.
    """

    name: str
    params: type[P]
    fit: Callable[[Sample, P, int], Fitted]
    load: Callable[[Path, Task], Fitted]
    runs: Callable[[Task, P], Runs] = in_threads

    @property
    def sets(self) -> tuple[str, ...]:
        """The feature sets that it can take, by name."""
        return tuple(
            name
            for name, field in self.params.model_fields.items()
            for kind in (field.annotation, *get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, SourceParams)
        )


def is_model(name: str) -> bool:
    """Whether a module of this name defines a model; any other name is a backbone's."""
    return (
        str(name).isidentifier() and find_spec(f"{MODELS}.{name}") is not None and not _serves(name)
    )


def load_model(name: str) -> Model[Any]:
    """The model of the module `stages/models/<name>.py`.

    Raises:
        InputError: There is no such module.
    """
    if not is_model(name):
        known = sorted(path.stem for path in FOLDER.glob("*.py") if not _serves(path.stem))
        raise InputError(
            f"params.yaml: build: unknown model, got {name!r}; expected one of {known}"
        )
    model: Model[Any] = import_module(f"{MODELS}.{name}").MODEL
    return model


MODELS = "stages.models"
FOLDER = Path(__file__).parents[1]


def _serves(name: str) -> bool:
    """Whether a module of `stages/models` only serves those beside it."""
    return name.startswith("_") or (FOLDER / name).is_dir()
