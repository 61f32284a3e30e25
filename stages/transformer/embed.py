"""Sentence embeddings of a pretrained backbone, which is not tuned: a feature set.

In: the rows. Out: a folder with a dense matrix for each text column (the pooled last layer of the
first `max_tokens` tokens, scaled to length 1; Reimers and Gurevych 2019), and the cosines between
the texts of a row. Each text is read on its own and padding is masked, so an embedding does not
depend on other texts; texts of similar length share a batch. If `backbone` is null, the feature set
is empty and torch is not imported.

    python -m stages.transformer.embed --dataset demo
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from stages.core.blocks import write_blocks
from stages.core.errors import InputError
from stages.core.folds import Indices
from stages.core.layout import Layout
from stages.core.matrices import Floats
from stages.core.params import Params, in_section, read_params
from stages.core.tables import ID, join_turns, read_table
from stages.core.tasks import read_task
from stages.runtime import gpu, parallel
from stages.runtime.cli import run
from stages.transformer.network.backbones import check_positions, load_backbone, load_tokenizer
from stages.transformer.network.batches import inference_batches
from stages.transformer.network.devices import autocast_dtype
from stages.transformer.network.encode import Template, encode_text, tokenise
from stages.transformer.network.network import network_class
from stages.transformer.network.params import BackboneParams, Precision
from stages.transformer.network.predict import distinct_sequences, score
from stages.transformer.network.tokens import Tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("verdict")

CHUNK = 1000  # texts per call of the tokenizer; most of their tokens are dropped right away


class EmbedParams(Params):
    """Section `embed`: with a null `backbone` the feature set is empty.

    The first `max_tokens` tokens of a text are read, special tokens included. `tokens_per_batch`
    bounds memory. With bf16 (see `finetune`) the other texts of its batch change an embedding by a
    few thousandths.
    """

    section = "embed"

    backbone: BackboneParams | None = None
    max_tokens: Annotated[int, Field(ge=8)] = 128
    tokens_per_batch: Annotated[int, Field(ge=8)] = 2048
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Embedder:
    """A pretrained network and its tokenizer."""

    params: EmbedParams
    tokenizer: PreTrainedTokenizerFast
    network: Any
    device: torch.device

    @classmethod
    def load(cls, params: EmbedParams) -> Embedder:
        """Load the backbone that the params name.

        Raises:
            InputError: The params name none, it cannot be loaded, or `max_tokens` is more than it
                can read.
        """
        import torch

        backbone = params.backbone
        if backbone is None:
            raise InputError("embed.backbone: got null; expected a backbone, since texts need one")
        device = torch.device("cuda" if gpu.is_usable() else "cpu")
        model = load_backbone(backbone, device=device, dtype=torch.float32)
        check_positions(model, params.max_tokens, "max_tokens")
        network = network_class()(
            model,
            torch.nn.Identity(),
            backbone.pooling,
            dropout=0.0,
            precision=autocast_dtype(params.precision, device),
        )
        return cls(params, load_tokenizer(backbone), network.eval(), device)

    def __call__(self, texts: pd.DataFrame) -> dict[str, Floats]:
        """Embeddings `(n_rows, size)` of each column; a cell is a text or a list of turns."""
        tokens = self.tokens(texts)
        sequences, where = distinct_sequences(tokens, np.arange(len(texts)))
        lengths = tokens.lengths()[sequences[:, 0], sequences[:, 1]]
        batches = inference_batches(lengths, self.params.tokens_per_batch)
        bar = tqdm(batches, desc="embed", unit="batch", leave=False, disable=None)

        def embed(batch: Indices) -> Floats:
            return self._embed(tokens, sequences[batch])

        # a GPU is used here, even if there is a cluster
        with gpu.turn(self.device), one_torch_thread():
            on_cpu = self.device.type == "cpu"
            found = parallel.run(embed, bar) if on_cpu else list(map(embed, bar))
        vectors = np.concatenate(found)  # batches keep the order of the sequences, longest first
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return {str(column): vectors[where[:, number]] for number, column in enumerate(texts)}

    def tokens(self, texts: pd.DataFrame) -> Tokens:
        """The sequences of each row, one per column."""
        template = Template.of(self.tokenizer, 1)
        flat = [join_turns(cell) for row in texts.itertuples(index=False) for cell in row]
        sequences = [
            encode_text(template, ids, self.params.max_tokens)[0]
            for start in range(0, len(flat), CHUNK)
            for ids in tokenise(self.tokenizer, flat[start : start + CHUNK])
        ]
        pad_id = self.tokenizer.pad_token_id
        return Tokens.of(sequences, texts.shape[1], pad_id)

    def _embed(self, tokens: Tokens, sequences: Any) -> Floats:
        import torch

        with torch.inference_mode():
            found: Floats = score(self.network, tokens, sequences, self.device).cpu().numpy()
            return found


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Use one thread per batch: batches run side by side, and more threads change the last bits."""
    import torch

    given = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(given)


def main(*, dataset: str) -> None:
    """Embed the texts of all rows."""
    layout = Layout(dataset)
    params = read_params(EmbedParams, layout)
    task = read_task(layout.labels)
    frame = read_table(layout.augmented, [ID, *task.text_columns])
    vectors: Mapping[str, Floats] = {}
    if params.backbone is not None:
        with in_section(EmbedParams, layout):
            vectors = Embedder.load(params)(frame[list(task.text_columns)])
    write_blocks(layout.features("embed"), frame[ID], task.relate(vectors) if vectors else {})
    log.info("embed: %d rows, %d text columns", len(frame), len(vectors))


if __name__ == "__main__":
    run(main)
