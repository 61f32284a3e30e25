"""Token ids of all rows for one backbone, which all of its folds are tuned on.

In: the rows. Out: a folder with the sequences of each row (both orders of a pair), and how much of
the texts was cut. A dataset that does not use the backbone (its section is null, or its `folds` are
empty) gets no tokens.

    python -m stages.transformer.tokens --dataset demo --backbone minilm
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
from tqdm import tqdm

from stages.core.layout import Layout
from stages.core.params import in_section
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
from stages.transformer.network.params import EncodingParams, FinetuneParams, read_finetune
from stages.transformer.network.tokens import Tokens, write_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("verdict")

Encoded: TypeAlias = tuple[
    tuple[Ids, ...], Cut
]  # the sequences of a row by order, and what was cut
CHUNK = 500  # rows per call of the tokenizer: bounds memory, and keeps all cores busy


def build(
    rows: pd.DataFrame,
    task: Task,
    tokenizer: PreTrainedTokenizerFast,
    encoding: EncodingParams,
) -> tuple[Tokens, dict[str, float]]:
    """The sequences of `rows`, in their order, and the metrics of what was cut.

    Raises:
        InputError: The encoding does not fit the task, or leaves no room for a text.
    """
    encoded = encode(rows, task, tokenizer, encoding)
    bar = tqdm(encoded, desc="tokens", unit=" rows", total=len(rows), disable=None)
    tokens, cuts = collect(bar, task, tokenizer)
    return tokens, measure(cuts, tokens.lengths(), is_pair=task.symmetric)


def apply(
    rows: pd.DataFrame, task: Task, tokenizer: PreTrainedTokenizerFast, encoding: EncodingParams
) -> Tokens:
    """The tokens of `build` without the metrics and the progress bar."""
    return collect(encode(rows, task, tokenizer, encoding), task, tokenizer)[0]


def collect(
    encoded: Iterable[Encoded], task: Task, tokenizer: PreTrainedTokenizerFast
) -> tuple[Tokens, list[Cut]]:
    """The tokens of all rows that `encode` yields, and what was cut from each row."""
    sequences: list[Ids] = []
    cuts: list[Cut] = []
    for row, cut in encoded:
        sequences += row
        cuts.append(cut)
    return Tokens.of(sequences, 1 + task.symmetric, tokenizer.pad_token_id), cuts


def encode(
    rows: pd.DataFrame, task: Task, tokenizer: PreTrainedTokenizerFast, encoding: EncodingParams
) -> Iterator[Encoded]:
    """Yield the sequences of each row, and what was cut from it.

    Raises:
        InputError: The encoding does not fit the task, or leaves no room for a text.
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
    """Encode some rows, given their texts; they are pairs if there is a prompt budget."""
    if encoding.prompt_tokens is None:
        for text in tokenise(tokenizer, [text for (text,) in texts]):
            sequence, cut = encode_text(template, text, encoding.max_tokens)
            yield (sequence,), cut
        return
    for rounds in tokenise_rounds(tokenizer, texts):
        yield encode_pair(template, rounds, encoding.max_tokens, encoding.prompt_tokens)


def main(*, dataset: str, backbone: str) -> None:
    """Tokenise all rows for a backbone."""
    layout = Layout(dataset)
    params = read_finetune(layout, backbone)
    task = read_task(layout.labels)
    frame = read_table(layout.augmented, [ID, *task.text_columns])
    if params is None or params.folds == ():  # do not import transformers, which takes seconds
        frame, found = frame[:0], Tokens.of([], 1 + task.symmetric, 0)
        counts = measure([], found.lengths(), is_pair=task.symmetric)
    else:
        log.info("tokens: %d rows of %s for %s", len(frame), dataset, backbone)
        with in_section(FinetuneParams, layout, f"finetune.{backbone}"):
            found, counts = build(frame, task, load_tokenizer(params.backbone), params.encoding)
    write_tokens(layout.tokens(backbone), frame[ID], found)
    write_json(counts, layout.token_counts(backbone))
    log.info(
        "tokens: %(mean_tokens).0f tokens a sequence, %(mean_tokens_cut).0f cut from a row", counts
    )


if __name__ == "__main__":
    run(main)
