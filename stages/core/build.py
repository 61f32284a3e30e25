"""What `dvc repro` builds: the lists of params.yaml."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from stages.core.layout import ENSEMBLE, PARAMS, Layout
from stages.core.params import Params, check_params, each_once, read_section, read_yaml

NAME = re.compile(r"(?=.*[A-Za-z_])[A-Za-z0-9_][A-Za-z0-9_-]*")
WORDS = {"null", "true", "false"}  # what YAML and DVC take for something else than a name


def _sound(name: str) -> str:
    """A name can stand in a path, a command, a stage's name and on DVC's command line."""
    if not NAME.fullmatch(name) or name.lower() in WORDS:
        raise ValueError("expected letters, digits, _ and -, no number and not null")
    return name


Names = Annotated[tuple[Annotated[str, AfterValidator(_sound)], ...], AfterValidator(each_once)]


class GroupParams(Params):
    """The models to build, by the feature sets that they take, and the backbones to tune.

    A model is the module of its name in `stages/models`; `linear` ones may take tf-idf, `dense`
    ones word vectors, `latent` ones latent semantic coordinates, and all of them style and
    embeddings. A backbone is the section `finetune.<name>` of a dataset, null where the dataset
    does without it.
    """

    linear: Names
    dense: Names
    latent: Names
    backbones: Names

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are fitted on stored features."""
        return (*self.linear, *self.dense, *self.latent)


class CurveParams(Params):
    """Which datasets get learning curves, and of which models."""

    datasets: Names
    models: Names


class BuildParams(Params):
    """The whole of params.yaml."""

    datasets: Names
    build: GroupParams
    learning_curves: CurveParams


def read_build(root: Path = Path()) -> BuildParams:
    """Read and check params.yaml."""
    path = root / PARAMS
    return check_params(BuildParams, read_yaml(path), path)


def built_models(layout: Layout) -> list[str]:
    """The names of all models that are built for a dataset, but not the ensemble's.

    A backbone is left out where it has no section; `stages.check` asks for one or null.
    """
    groups = read_build(layout.root).build
    if not groups.backbones:
        return list(groups.models)
    sections = read_section(layout.params, "finetune") or {}
    return [*groups.models, *(name for name in groups.backbones if sections.get(name) is not None)]


def judged_models(layout: Layout) -> list[str]:
    """The names of all models that are judged: those that are built, and the ensemble last."""
    return [*built_models(layout), ENSEMBLE]
