"""The members of the ensemble, as their stages stored them, to predict new rows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.matrices import Block, Floats
from stages.core.seeds import by_number
from stages.core.tasks import Task
from stages.models.fitting.crossfit import FoldModels
from stages.models.fitting.crossfit import stored_params as classical_params
from stages.models.fitting.model import is_model, load_model
from stages.runtime import gpu
from stages.transformer import tokens
from stages.transformer.finetune import use_cores
from stages.transformer.network.backbones import Source, read_tokenizer
from stages.transformer.network.params import FinetuneParams, Inference
from stages.transformer.network.predict import Data, probabilities
from stages.transformer.network.predict import predict as predict_scores
from stages.transformer.training.classifier import TUNED, load_tuned, share_backbone, stored_params
from stages.transformer.training.classifier import load as load_classifier
from stages.transformer.training.units import REFIT, TOKENIZER

Sets: TypeAlias = dict[str, dict[str, Block]]  # feature set -> text column -> block


class Member(Protocol):
    """A model of the ensemble."""

    def predict(self, texts: pd.DataFrame, sets: Sets) -> Floats:
        """Probabilities `(n_rows, n_classes)` from the texts, or from features of them."""


@dataclass(frozen=True)
class Classical:
    """The fold models of a member that takes stored features."""

    models: FoldModels

    def predict(self, texts: pd.DataFrame, sets: Sets) -> Floats:  # noqa: ARG002
        """As `Member` says."""
        return self.models.predict(sets)


@dataclass(frozen=True)
class Transformer:
    """The tuned networks of a backbone: those of the folds, or those fitted again on all rows.

    Where they differ in adapters or head alone, there is one in memory, and `units` are the folders
    of what it takes on in turn: five times Gemma-2-9b would fill any GPU.
    """

    task: Task
    params: FinetuneParams
    tokenizer: Any
    units: list[Path]
    networks: list[Any]
    accelerator: Any
    in_turn: Any = field(default_factory=Lock)  # requests to a server come in threads

    @classmethod
    def load(cls, folder: Path, task: Task, how: Inference = TUNED) -> "Transformer":
        """Read what the stage `finetune` wrote."""
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=not gpu.is_usable())
        use_cores(accelerator)
        tokenizer = folder / TOKENIZER
        units = [path for path in folder.iterdir() if path.is_dir() and path != tokenizer]
        units = [path for path in units if path.name.startswith(REFIT)] or units
        units.sort(key=by_number)
        if not units:
            raise InputError(f"{folder}: got no model; expected one a fold")
        params = stored_params(units[0])
        whole = units[:1] if share_backbone(params) else units
        networks = [load_classifier(unit, device=accelerator.device, how=how) for unit in whole]
        own = Source(str(tokenizer.resolve()), revision=None)
        return cls(task, params, read_tokenizer(own), units, networks, accelerator)

    def predict(self, texts: pd.DataFrame, sets: Sets) -> Floats:  # noqa: ARG002
        """As `Member` says."""
        found = tokens.apply(texts, self.task, self.tokenizer, self.params.encoding)
        rows = np.arange(len(texts))
        data = Data(self.task, found, np.full((len(rows), len(self.task.classes)), math.nan))
        total = np.zeros(data.targets.shape)
        with self.in_turn:
            for number, unit in enumerate(self.units):
                network = self.networks[number % len(self.networks)]
                if len(self.networks) < len(self.units):
                    load_tuned(network, unit, self.params)
                scores = predict_scores(network, data, rows, self.params, self.accelerator)
                total += probabilities(self.task, scores)[0]
        return total / len(self.units)


def load_member(folder: Path, task: Task, how: Inference = TUNED) -> Member:
    """The model that the stage of the folder's name stored there."""
    if is_model(folder.name):
        return Classical(FoldModels.load(folder, task, load_model(folder.name)))
    return Transformer.load(folder, task, how)


def sets_of(folders: Iterable[Path]) -> set[str]:
    """The feature sets that the members stored in these folders take; none of what is missing."""
    return {
        name
        for folder in folders
        if is_model(folder.name) and folder.is_dir()
        for name in classical_params(folder, load_model(folder.name).params).sources()
    }
