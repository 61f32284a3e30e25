r"""Token ids of all rows for one backbone: tokenised once, and read by every run that tunes it.

In: rows.parquet. Out: a folder with the sequences of each row (both orders of a pair), and how much
of the texts did not fit into them. Only the params of the backbone, of the encoding and the folds
count here: another learning rate does not tokenise again. Where no fold is tuned, there are no
tokens.

    python -m stages.transformer.tokens --dataset demo --backbone minilm \
        --labels data/demo/labels.json --rows data/demo/augmented/rows.parquet \
        --tokens data/demo/tokens/minilm --metrics metrics/tokens/demo/minilm.json
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
from tqdm import tqdm

from stages.core.params import in_section, read_params
from stages.core.tables import ID, read_table, write_json
from stages.core.tasks import Task, read_task
from stages.runtime.cli import run
from stages.transformer.network.backbones import load_tokenizer
from stages.transformer.network.encode import (
    Cut,
    Ids,
    Template,
    check_budget,
    encode_pair,
    encode_text,
    measure,
    tokenise,
    tokenise_rounds,
)
from stages.transformer.network.params import (
    BackboneParams,
    EncodingParams,
    FinetuneParams,
    FoldsParam,
)
from stages.transformer.network.tokens import Tokens, write_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("verdict")

Encoded: TypeAlias = tuple[tuple[Ids, ...], Cut]  # the sequences of a row by order, and its losses
CHUNK = 500  # rows whose texts are tokenised at once: bounds memory, and is enough for all cores


def build(
    rows: pd.DataFrame,
    task: Task,
    tokenizer: PreTrainedTokenizerFast,
    encoding: EncodingParams,
) -> tuple[Tokens, dict[str, float]]:
    """The sequences of `rows`, in their order, and the metrics of what was cut.

    Raises:
        InputError: The params of the encoding do not fit the task, or leave no room for a text.
    """
    encoded = encode(rows, task, tokenizer, encoding)
    bar = tqdm(encoded, desc="tokens", unit=" rows", total=len(rows), disable=None)
    tokens, cuts = collect(bar, task, tokenizer)
    return tokens, measure(cuts, tokens.lengths(), is_pair=task.symmetric)


def apply(
    rows: pd.DataFrame, task: Task, tokenizer: PreTrainedTokenizerFast, encoding: EncodingParams
) -> Tokens:
    """The tokens that `build` makes, and nothing else."""
    return collect(encode(rows, task, tokenizer, encoding), task, tokenizer)[0]


def collect(
    encoded: Iterable[Encoded], task: Task, tokenizer: PreTrainedTokenizerFast
) -> tuple[Tokens, list[Cut]]:
    """The rows of `encode` as one."""
    sequences: list[Ids] = []
    cuts: list[Cut] = []
    for row, cut in encoded:
        sequences += row
        cuts.append(cut)
    return Tokens.of(sequences, 1 + task.symmetric, tokenizer.pad_token_id), cuts


def encode(
    rows: pd.DataFrame, task: Task, tokenizer: PreTrainedTokenizerFast, encoding: EncodingParams
) -> Iterator[Encoded]:
    """Sequences of each row, and what they lost.

    Raises:
        InputError: The params of the encoding do not fit the task, or leave no room for a text.
    """
    columns = task.text_columns
    template = Template.of(tokenizer, len(columns))
    check_budget(encoding, template, is_pair=task.symmetric)
    texts = list(zip(*(rows[name] for name in columns), strict=True))
    for start in range(0, len(texts), CHUNK):
        yield from _encode(texts[start : start + CHUNK], template, tokenizer, encoding)


def _encode(
    texts: Sequence[tuple[Any, ...]],
    template: Template,
    tokenizer: PreTrainedTokenizerFast,
    encoding: EncodingParams,
) -> Iterator[Encoded]:
    """The sequences of each row, by order, from its texts; a prompt budget means pairs."""
    if encoding.prompt_tokens is None:
        for text in tokenise(tokenizer, [text for (text,) in texts]):
            sequence, cut = encode_text(template, text, encoding.max_tokens)
            yield (sequence,), cut
        return
    for rounds in tokenise_rounds(tokenizer, texts):
        yield encode_pair(template, rounds, encoding.max_tokens, encoding.prompt_tokens)


def main(
    *, dataset: str, backbone: str, labels: Path, rows: Path, tokens: Path, metrics: Path
) -> None:
    """Tokenise all rows for a backbone."""
    network = read_params(BackboneParams, dataset, f"finetune.{backbone}.backbone")
    encoding = read_params(EncodingParams, dataset, f"finetune.{backbone}.encoding")
    folds = read_params(FoldsParam, dataset, f"finetune.{backbone}.folds").root
    task = read_task(labels)
    frame = read_table(rows, [ID, *task.text_columns])
    if folds == ():  # left out: without transformers and torch, which take seconds to import
        frame, found = frame[:0], Tokens.of([], 1 + task.symmetric, 0)
        counts = measure([], found.lengths(), is_pair=task.symmetric)
    else:
        log.info("tokens: %d rows of %s for %s", len(frame), dataset, backbone)
        with in_section(FinetuneParams, dataset, f"finetune.{backbone}"):
            found, counts = build(frame, task, load_tokenizer(network), encoding)
    write_tokens(tokens, frame[ID], found)
    write_json(counts, metrics)
    log.info(
        "tokens: %(mean_tokens).0f tokens a sequence, %(mean_tokens_cut).0f cut from a row", counts
    )


if __name__ == "__main__":
    run(main)
