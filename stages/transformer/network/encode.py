"""From the texts of a row to the token ids that a backbone reads, within a budget.

A single text is put between the start and the end token. A pair becomes one sequence: the prompt,
one answer, then the other. Order 1 of a row equals order 0 of the row with A and B exchanged, token
for token. Backbones with a separator token get `[CLS] prompt [SEP] a [SEP] b [SEP]`. The others
(decoders, T5) get plain-text tags, which worked better than new tokens for the 3rd place of the
LMSYS competition.

If a sequence is too long, whole rounds (the prompt and both answers of a turn) are dropped, oldest
first, until it fits or one round is left. Then the prompt is cut, but not below `prompt_tokens`,
and then the longer answer, until everything fits or both answers have the same length; after that
both are cut alike. Texts keep their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.errors import InputError
from stages.transformer.network.params import EncodingParams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Ids: TypeAlias = npt.NDArray[np.int32]
Turns: TypeAlias = Sequence[str | None]

TAGS = ("Prompt:\n", "\n\nAnswer A:\n", "\n\nAnswer B:\n")


class Cut(NamedTuple):
    """What was cut from a row: the number of its rounds, and tokens."""

    rounds: int = 0
    round_tokens: int = 0
    prompt_tokens: int = 0
    text_tokens: int = 0  # of both answers, or of a single text


@dataclass(frozen=True)
class Template:
    """The tokens around the texts of a sequence: one piece more than there are texts."""

    around: tuple[Ids, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, n_texts: int) -> Template:
        """The template for one text, or for three: a prompt and two answers."""
        start = _first(tokenizer.cls_token_id, tokenizer.bos_token_id)
        # a sequence must not be empty, so the pad token ends it if there is no better one
        end = _first(tokenizer.sep_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        if n_texts == 1:
            return cls((start, end))
        if tokenizer.sep_token_id is not None:
            return cls((start, end, end, end))
        prompt, a, b = tokenise(tokenizer, TAGS)
        return cls((np.concatenate([start, prompt]), a, b, end))

    def __len__(self) -> int:
        """The number of tokens in the template itself."""
        return sum(map(len, self.around))

    def fill(self, *texts: Ids) -> Ids:
        """The sequence with `texts` filled in."""
        pieces = [piece for pair in zip(self.around, texts, strict=False) for piece in pair]
        return np.concatenate([*pieces, self.around[-1]])


def check_budget(encoding: EncodingParams, template: Template, *, is_pair: bool) -> None:
    """Check that the params fit the task and leave room for the texts.

    Raises:
        InputError: They do not.
    """
    given = encoding.prompt_tokens
    if (given is not None) != is_pair:
        wanted = "a number of tokens for a preference" if is_pair else "null for tasks of one text"
        raise InputError(f"encoding.prompt_tokens: does not fit, got {given}; expected {wanted}")
    room = encoding.max_tokens - len(template) - 2 * is_pair  # a token of each answer
    if room < (given or 1):
        raise InputError(
            f"encoding.max_tokens: too small, got {encoding.max_tokens}; expected at least "
            f"{encoding.max_tokens - room + (given or 1)}: {len(template)} around the texts, "
            + (f"{given} of the prompt and some of both answers" if is_pair else "and some text")
        )


def encode_text(template: Template, text: Ids, max_tokens: int) -> tuple[Ids, Cut]:
    """The sequence of a text, and what was cut from it."""
    kept = text[: max_tokens - len(template)]
    return template.fill(kept), Cut(text_tokens=len(text) - len(kept))


def encode_pair(
    template: Template, rounds: Sequence[tuple[Ids, Ids, Ids]], max_tokens: int, prompt_tokens: int
) -> tuple[tuple[Ids, Ids], Cut]:
    """The sequences of both orders of a pair, and what was cut from each of them.

    Args:
        template: Of three texts.
        rounds: Tokens of prompt, answer A and answer B of each turn, oldest first.
        max_tokens: The length of the longest sequence, template included.
        prompt_tokens: A prompt that is cut keeps at least this many tokens.
    """
    budget = max_tokens - len(template)
    sizes = [sum(map(len, texts)) for texts in rounds]
    first, total = 0, sum(sizes)
    while total > budget and first < len(rounds) - 1:
        total -= sizes[first]
        first += 1
    empty = np.zeros(0, np.int32)
    texts = zip(*rounds[first:], strict=True) if rounds else ((), (), ())
    prompt, a, b = (np.concatenate([empty, *turns]) for turns in texts)
    n_prompt, n_a, n_b = shares(len(prompt), len(a), len(b), budget, prompt_tokens)
    cut = Cut(
        rounds=first,
        round_tokens=sum(sizes[:first]),
        prompt_tokens=len(prompt) - n_prompt,
        text_tokens=len(a) - n_a + len(b) - n_b,
    )
    prompt, a, b = prompt[:n_prompt], a[:n_a], b[:n_b]
    return (template.fill(prompt, a, b), template.fill(prompt, b, a)), cut


def shares(prompt: int, a: int, b: int, budget: int, prompt_tokens: int) -> tuple[int, int, int]:
    """How many tokens of the prompt, A and B are kept, together at most `budget`.

    A and B are treated alike: if both are cut and one token is left over, neither gets it.
    """
    prompt = min(prompt, max(prompt_tokens, budget - a - b))
    rest = budget - prompt
    if a + b > rest:
        level = max(rest // 2, rest - min(a, b))
        a, b = min(a, level), min(b, level)
    return prompt, a, b


def tokenise(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str | None]) -> list[Ids]:
    """Token ids of each text on its own, without special tokens; a missing text has none.

    Special tokens in a text are read as plain text, so that nobody can forge a separator. Lone
    surrogates, which tokenizers refuse, become question marks.
    """
    if not texts:
        return []
    clean = [(text or "").encode("utf-8", "replace").decode("utf-8") for text in texts]
    found = tokenizer(
        clean,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no warning that a text is too long for the model: it will be cut
    )["input_ids"]
    return [np.asarray(ids, np.int32) for ids in found]


def tokenise_rounds(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[Turns, Turns, Turns]]
) -> list[list[tuple[Ids, Ids, Ids]]]:
    """Token ids of prompt, A and B for each turn of each row; missing turns are empty.

    Turns are joined by a newline, which belongs to the turn before it.
    """
    rounds = [_rounds(texts) for texts in rows]
    flat = iter(tokenise(tokenizer, [text for row in rounds for texts in row for text in texts]))
    return [[(next(flat), next(flat), next(flat)) for _ in row] for row in rounds]


def _rounds(texts: tuple[Turns, Turns, Turns]) -> list[tuple[str, ...]]:
    n_rounds = max(map(len, texts))
    return list(zip(*(_padded(turns, n_rounds) for turns in texts), strict=True))


def _padded(turns: Turns, n_rounds: int) -> list[str]:
    last = len(turns) - 1
    joined = [(turn or "") + "\n" * (i < last) for i, turn in enumerate(turns)]
    return joined + [""] * (n_rounds - len(turns))


def _first(*ids: int | None) -> Ids:
    """An array with the first id that is not None; empty if all are."""
    return np.array([i for i in ids if i is not None][:1], np.int32)


def measure(
    cuts: Sequence[Cut], lengths: npt.NDArray[np.int64], *, is_pair: bool
) -> dict[str, float]:
    """How long the sequences are, given `lengths` `(n_rows, n_orders)`, and how much was cut.

    Lengths include special tokens. Shares are shares of the rows; cut tokens are means per row.
    """
    lost = np.array(cuts, np.int64).reshape(-1, len(Cut._fields))
    n_rows = max(len(cuts), 1)
    share = dict(zip(Cut._fields, (lost > 0).sum(axis=0) / n_rows, strict=True))
    found = {
        "rows": len(cuts),
        "mean_tokens": float(lengths.sum()) / max(lengths.size, 1),
        "longest_tokens": int(lengths.max(initial=0)),
        "mean_tokens_cut": float(lost[:, 1:].sum()) / n_rows,
    }
    if not is_pair:
        return found | {"share_text_cut": float(share["text_tokens"])}
    return found | {
        "share_rounds_dropped": float(share["rounds"]),
        "share_prompt_cut": float(share["prompt_tokens"]),
        "share_answers_cut": float(share["text_tokens"]),
    }
