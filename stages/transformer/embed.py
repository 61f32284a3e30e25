r"""Sentence embeddings of a pretrained backbone as it is, nothing tuned: a feature set.

In: rows.parquet. Out: a folder with a dense matrix for each text column (the pooled last layer of
the first `max_tokens` tokens, of length 1; Reimers and Gurevych 2019) and the cosines between a
row's texts. Each text is read by itself, so its embedding depends on no other text: batches are of
like length, and padding is masked. A dataset whose `backbone` is null gets an empty set, and torch
is not even imported.

    python -m stages.transformer.embed --dataset demo --labels data/demo/labels.json \
        --rows data/demo/augmented/rows.parquet --embed data/demo/embed
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from stages.core.blocks import write_blocks
from stages.core.errors import InputError
from stages.core.folds import Indices
from stages.core.params import Params, in_section, read_params
from stages.core.tables import ID, join_turns, read_table
from stages.core.tasks import Floats, read_task
from stages.runtime import parallel
from stages.runtime.cli import run
from stages.transformer.network.backbones import (
    autocast_dtype,
    check_positions,
    load_backbone,
    load_tokenizer,
)
from stages.transformer.network.batches import inference_batches
from stages.transformer.network.encode import Template, encode_text, tokenise
from stages.transformer.network.network import network_class
from stages.transformer.network.params import BackboneParams
from stages.transformer.network.predict import distinct_sequences, score
from stages.transformer.network.tokens import Tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("verdict")

CHUNK = 1000  # texts that are tokenised at once, since all but their first tokens is dropped


class EmbedParams(Params):
    """Section `embed`: a null `backbone` makes an empty feature set.

    `max_tokens` are read of each text, special tokens included. `tokens_per_batch` bounds memory.
    With bf16 (see `finetune`) an embedding depends on its batch by some thousandths.
    """

    backbone: BackboneParams | None
    max_tokens: Annotated[int, Field(ge=8)]
    tokens_per_batch: Annotated[int, Field(ge=8)]
    precision: Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Embedder:
    """A pretrained network and its tokenizer."""

    params: EmbedParams
    tokenizer: PreTrainedTokenizerFast
    network: Any
    device: torch.device

    @classmethod
    def load(cls, params: EmbedParams) -> Embedder:
        """Load the backbone of the params.

        Raises:
            InputError: There is none, it cannot be loaded, or reads no texts of `max_tokens`.
        """
        import torch

        backbone = params.backbone
        if backbone is None:
            raise InputError("embed.backbone: got null; expected a backbone, since texts need one")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
        """Embeddings `(n_rows, size)` of each column of `texts`, a text or list of turns a cell."""
        tokens = self.tokens(texts)
        sequences, where = distinct_sequences(tokens, np.arange(len(texts)))
        lengths = tokens.lengths()[sequences[:, 0], sequences[:, 1]]
        batches = inference_batches(lengths, self.params.tokens_per_batch)
        bar = tqdm(batches, desc="embed", unit="batch", leave=False, disable=None)

        def embed(batch: Indices) -> Floats:
            return self._embed(tokens, sequences[batch])

        with one_torch_thread():  # a GPU is this machine's, also beside a cluster
            on_cpu = self.device.type == "cpu"
            found = parallel.run(embed, bar) if on_cpu else list(map(embed, bar))
        vectors = np.concatenate(found)  # batches and sequences are both the longest first
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return {str(column): vectors[where[:, number]] for number, column in enumerate(texts)}

    def tokens(self, texts: pd.DataFrame) -> Tokens:
        """The sequences of each row, one a column."""
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
    """Batches run side by side: the last bits depend on the number of threads of one."""
    import torch

    given = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(given)


def main(*, dataset: str, labels: Path, rows: Path, embed: Path) -> None:
    """Write the folder `embed` from the texts."""
    params = read_params(EmbedParams, dataset, "embed")
    task = read_task(labels)
    frame = read_table(rows, [ID, *task.text_columns])
    vectors: Mapping[str, Floats] = {}
    if params.backbone is not None:
        with in_section(EmbedParams, dataset, "embed"):
            vectors = Embedder.load(params)(frame[list(task.text_columns)])
    write_blocks(embed, frame[ID], task.relate(vectors) if vectors else {})
    log.info("embed: %d rows, %d text columns", len(frame), len(vectors))


if __name__ == "__main__":
    run(main)
