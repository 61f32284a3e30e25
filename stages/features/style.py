"""How texts are written, in named numbers.

Source: style control, https://lmsys.org/blog/2024-08-28-style-control.
In: rows.parquet (a text, or turns of prompt and answers). Out: style.parquet, `id` and float32
columns `<text column>.<feature>` for each text. For pairs also how an answer takes up its prompt,
and `pair.<feature>` for what both answers share; none of them knows which answer stands first.
Nothing is fitted: each row stands for itself.

    python -m stages.features.style --dataset demo
"""

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from os.path import commonprefix
from typing import TypeVar

import numpy as np
import pandas as pd

from stages.core.layout import Layout
from stages.core.tables import columns_with
from stages.core.tasks import PAIR, TEXT, read_task
from stages.features._text import WINDOW, Features, Text, measure
from stages.runtime.batches import map_table
from stages.runtime.cli import run

log = logging.getLogger("verdict")

CHUNK = 200  # rows that a worker takes at once
Turns = Sequence[str | None]
T = TypeVar("T")
# What of a prompt is worth keeping: its size, its script, its register.
OF_PROMPT = (
    "characters", "words", "unique_words", "paragraphs", "word_characters", "digits",
    "punctuation", "non_ascii", "spaces", "question_marks", "herdan", "function_words", "numbers",
    "contractions", "first_person", "second_person", "flesch", "begins_lower",
)  # fmt: skip


def describe_pair(prompt: Turns, response_a: Turns, response_b: Turns) -> Features:
    """All features of one row, by the name of their column."""
    p, a, b = Text(prompt), Text(response_a), Text(response_b)
    of_prompt = measure(p)
    blocks = {
        "prompt": {
            "turns": math.log1p(len(p.turns)),
            **{name: of_prompt[name] for name in OF_PROMPT},
        },
        "response_a": {**measure(a), **to_prompt(a, p), **to_other(a, b, p)},
        "response_b": {**measure(b), **to_prompt(b, p), **to_other(b, a, p)},
        PAIR: both(a, b),
    }
    return {
        f"{key}.{name}": value for key, block in blocks.items() for name, value in block.items()
    }


def describe_text(text: str) -> Features:
    """All features of a row that is one text."""
    return {f"{TEXT}.{name}": value for name, value in measure(Text([text])).items()}


def to_prompt(answer: Text, prompt: Text) -> Features:
    """How an answer takes up its prompt; words without function words."""
    asked, said = prompt.content.keys(), answer.content.keys()
    common, copied = len(asked & said), len(answer.trigrams.keys() & prompt.trigrams.keys())
    alone, given = _packed(answer), _packed(answer, prompt)
    return {
        "prompt_covered": common / max(len(asked), 1),
        "from_prompt": common / max(len(said), 1),
        "prompt_cosine": cosine(_damped(prompt), _damped(answer)),
        "copied_trigrams": copied / max(len(answer.trigrams), 1),
        "prompt_trigrams_covered": copied / max(len(prompt.trigrams), 1),
        "words_to_prompt": math.log1p(len(answer.words)) - math.log1p(len(prompt.words)),
        "script_distance": float(np.abs(answer.script - prompt.script).sum()) / 2,
        "new_numbers": len(answer.numbers - prompt.numbers) / max(len(answer.numbers), 1),
        # Bytes that an answer needs once the prompt is known (Benedetto et al. 2002)
        "compression_given_prompt": given / max(len(answer.bytes), 40),
        "compression_gain": 1 - given / alone,
        "bytes_given_prompt": math.log1p(given),
    }


def to_other(answer: Text, other: Text, prompt: Text) -> Features:
    """How much of an answer the other one says too."""
    words = answer.content.keys()
    own = words - other.content.keys() - prompt.content.keys()
    return {
        "shared_words": len(words & other.content.keys()) / max(len(words), 1),
        "own_words": math.log1p(len(own)),
    }


def both(a: Text, b: Text) -> Features:
    """How alike the two answers are: the same for (a, b) and (b, a). Alike answers tie."""
    common = len(a.content.keys() & b.content.keys())
    shortest = min(len(a.text), len(b.text))
    return {
        "containment": common / max(min(len(a.content), len(b.content)), 1),
        "cosine": cosine(a.content, b.content),
        "cosine_all_words": cosine(a.count, b.count),
        "jaccard": _jaccard(a.count.keys(), b.count.keys()),
        "trigram_jaccard": _jaccard(a.trigrams.keys(), b.trigrams.keys()),
        "prefix": len(commonprefix([a.text, b.text])) / max(shortest, 1),  # noqa: RUF071 - texts
        "has_numbers": float(bool(a.numbers or b.numbers)),
        "identical": float(a.stripped == b.stripped),
    }


def cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Cosine of two bags of words; 0 where one is empty."""
    if not a or not b:
        return 0.0
    product = sum(n * b[word] for word, n in a.items() if word in b)  # in the order of the text
    norms = sum(n * n for n in a.values()) * sum(n * n for n in b.values())
    return product / math.sqrt(norms)


def apply(rows: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """The features of `rows`, in their order, from the text columns of their task."""
    describe = describe_pair if len(columns) > 1 else describe_text
    names = list(describe(*[""] * len(columns)))
    texts = zip(*(rows[name] for name in columns), strict=True)
    values = [list(describe(*row).values()) for row in texts]
    return pd.DataFrame(np.array(values, np.float32).reshape(-1, len(names)), columns=names)


def _packed(text: Text, known: Text | None = None) -> int:
    """Bytes of the compressed text, where the compressor has seen the end of `known` before."""
    seen = known.bytes[-WINDOW:] if known else b""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=seen)
    return len(packer.compress(text.bytes)) + len(packer.flush())


def _damped(text: Text) -> dict[str, float]:
    return {word: math.log1p(n) for word, n in text.content.items()}


def _jaccard(a: AbstractSet[T], b: AbstractSet[T]) -> float:
    return len(a & b) / max(len(a | b), 1)


def main(*, dataset: str) -> None:
    """Write the style features of all rows, copies included."""
    layout = Layout(dataset)
    style = layout.features("style")
    columns = read_task(layout.labels).text_columns
    n_rows = map_table(
        partial(apply, columns=columns), layout.augmented, columns, style,
        size=CHUNK, alone=CHUNK + 1,
    )  # fmt: skip
    log.info("style: %d rows of %s, %d features", n_rows, dataset, len(columns_with(style, "")) - 1)


if __name__ == "__main__":
    run(main)
