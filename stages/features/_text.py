"""What one text is like: its words and characters counted once, and measures of them.

Counts are given as log(1 + n), so that the difference of two answers is the log of their ratio.
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stages.features import _lexicon as lex

Features = dict[str, float]
Trigram = tuple[str, str, str]

WINDOW = 32_000  # bytes that DEFLATE can look back
CLOSING = frozenset(".!?。！？…:;\"'”’)]}`*>|")
LATIN, CJK, KANA = 1, 6, 7
N_SCRIPTS = 9


# The script of each block of 256 code points; 0 for signs, punctuation and emoji
SCRIPTS = np.zeros(0x1100, np.int8)
SCRIPTS[0x00:0x03] = LATIN
SCRIPTS[0x04:0x06] = 2  # Cyrillic
SCRIPTS[0x06:0x08] = 3  # Arabic, Hebrew
SCRIPTS[0x09:0x0E] = 4  # Indic scripts
SCRIPTS[0x0E] = 5  # Thai
SCRIPTS[0x30:0x32] = KANA
SCRIPTS[0x34:0xA0] = CJK
SCRIPTS[0xAC:0xD8] = 8  # Hangul


class Text:
    """The turns of a prompt or of an answer as one text, with what is counted in it."""

    def __init__(self, turns: Sequence[str | None]) -> None:
        self.turns = tuple(turn or "" for turn in turns)
        self.text = "\n\n".join(self.turns)
        self.stripped = self.text.strip()
        self.lower = self.text.lower().replace("’", "'")
        self.bytes = self.text.encode("utf-8", "replace")
        codes = np.frombuffer(self.text.encode("utf-32-le", "replace"), np.uint32)
        self.ascii = np.bincount(np.minimum(codes, 128), minlength=129)  # [128]: all the others
        self.script = self._script(codes)
        spaced = lex.CJK.sub(r" \g<0> ", self.lower) if self.script[CJK] else self.lower
        self.words: list[str] = lex.WORD.findall(spaced)  # a Chinese or Japanese character is one
        self.count = Counter(self.words)
        self.content = Counter(
            {word: n for word, n in self.count.items() if word not in lex.FUNCTION_WORDS}
        )
        self.numbers = set(lex.NUMBER.findall(self.text))

    def _script(self, codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Shares of the scripts among the letters; kana count as CJK."""
        others = codes[codes >= 0xAA] if self.ascii[128] else codes[:0]
        letters = np.bincount(SCRIPTS[others >> 8], minlength=N_SCRIPTS).astype(np.float64)
        letters[0] = 0
        letters[LATIN] += self.ascii[65:91].sum() + self.ascii[97:123].sum()
        letters[CJK] += letters[KANA]
        letters[KANA] = 0
        shares: npt.NDArray[np.float64] = letters / max(letters.sum(), 1)
        return shares

    @cached_property
    def trigrams(self) -> Counter[Trigram]:
        """Runs of three words."""
        return Counter(zip(self.words, self.words[1:], self.words[2:], strict=False))

    @cached_property
    def parts(self) -> list[str]:
        """What stands between ends of sentences and of lines."""
        found: list[str] = lex.SENTENCE_END.split(self.stripped)
        return found

    @property
    def sentences(self) -> int:
        """How many sentences, or lines without an end, there are."""
        return max(len(self.parts) - 1, 1) if self.words else 0

    def has(self, words: Iterable[str]) -> int:
        """How many words of the text are among `words`."""
        return sum(self.count[word] for word in words)

    def character(self, sign: str) -> int:
        """How often the ASCII character `sign` occurs."""
        return int(self.ascii[ord(sign)])


def measure(text: Text) -> Features:
    """All measures of one text by itself, by name."""
    return {
        **lengths(text),
        **layout(text),
        **characters(text),
        **variety(text),
        **wording(text),
        **manner(text),
    }


def lengths(text: Text) -> Features:
    """How long it is, and how long its sentences and words are."""
    n_words = len(text.words)
    return {
        "characters": math.log1p(len(text.text)),
        "words": math.log1p(n_words),
        "unique_words": math.log1p(len(text.count)),
        "sentences": math.log1p(text.sentences),
        "paragraphs": math.log1p(_paragraphs(text)),
        "last_turn_words": math.log1p(len(text.turns[-1].split())) if text.turns else 0.0,
        "empty": float(not text.turns or any(not turn.strip() for turn in text.turns)),
        "sentence_words": math.log1p(n_words / max(text.sentences, 1)),
        "word_characters": min(sum(map(len, text.count)) / max(len(text.count), 1), 20.0),
    }


def layout(text: Text) -> Features:
    """Markdown: lists, headers, bold, code."""
    return {
        "numbered_items": math.log1p(len(lex.NUMBERED.findall(text.lower))),
        "bullet_items": math.log1p(len(lex.BULLET.findall(text.lower))),
        "headers": math.log1p(len(lex.HEADER.findall(text.lower))),
        "bold": math.log1p(text.text.count("**") // 2),
        "code_blocks": math.log1p((text.text.count("```") + 1) // 2),
        "backticks": math.log1p(text.character("`")),
    }


def characters(text: Text) -> Features:
    """Shares of kinds of characters, and some marks."""
    counts, n = text.ascii, max(len(text.text), 1)
    marks = counts[33:48].sum() + counts[58:65].sum() + counts[91:97].sum() + counts[123:127].sum()
    return {
        "digits": counts[48:58].sum() / n,
        "punctuation": marks / n,
        "non_ascii": counts[128] / n,
        "spaces": text.character(" ") / n,
        "double_spaces": math.log1p(text.text.count("  ")),
        "commas_per_word": text.character(",") / max(len(text.words), 1),
        "question_marks": math.log1p(text.character("?")),
        "hyphens": math.log1p(text.character("-")),
    }


def variety(text: Text) -> Features:
    """How much of it is new and how much is repeated: degenerate answers run in circles."""
    n_words, n_trigrams = len(text.words), sum(text.trigrams.values())
    parts = [part.strip() for part in text.parts if len(part.strip()) > 15]
    return {
        # Herdan's C: unlike the share of unique words, it hardly falls with the length
        "herdan": math.log(len(text.count)) / math.log(n_words) if n_words > 1 else 1.0,
        "compression": len(zlib.compress(text.bytes, 1)) / max(len(text.bytes), 40),
        "repeated_trigrams": 1 - len(text.trigrams) / max(n_trigrams, 1) if n_trigrams else 0.0,
        "repeated_sentences": 1 - len(set(parts)) / len(parts) if parts else 0.0,
    }


def wording(text: Text) -> Features:
    """What kinds of words it is made of, readability (Flesch 1948) and sentiment."""
    n_words = max(len(text.words), 1)
    capitalised = len(lex.CAPITALISED.findall(text.text))
    positive, negative = text.has(lex.POSITIVE), text.has(lex.NEGATIVE)
    return {
        "function_words": text.has(lex.FUNCTION_WORDS) / n_words,
        "capitalised_words": math.log1p(capitalised),
        "capitalised_share": capitalised / n_words,
        "numbers": math.log1p(len(text.numbers)),
        "contractions": math.log1p(len(lex.CONTRACTION.findall(text.lower))),
        "hedges": math.log1p(text.has(lex.HEDGES)),
        "connectives": math.log1p(text.has(lex.CONNECTIVES)),
        "first_person": text.has(lex.FIRST_PERSON) / n_words,
        "second_person": text.has(lex.SECOND_PERSON) / n_words,
        "negations": text.has(lex.NEGATIONS) / n_words,
        "flesch": _flesch(text),
        "sentiment": (positive - negative) / (positive + negative + 3),
    }


def manner(text: Text) -> Features:
    """Refusals and apologies, and how it begins and ends."""
    stripped, head = text.stripped, text.lower.lstrip()[:200]
    refusals = len(lex.REFUSAL.findall(text.lower)) + len(lex.DISCLAIMER.findall(text.lower))
    return {
        "refusals": math.log1p(refusals),
        "refusal_first": float(bool(lex.REFUSAL.search(head) or lex.DISCLAIMER.search(head))),
        "apologies": math.log1p(len(lex.APOLOGY.findall(text.lower))),
        "questions_back": math.log1p(len(lex.QUESTION_BACK.findall(text.lower))),
        "begins_with_i": float(text.words[:1] in (["i"], ["i'm"], ["i've"], ["i'd"], ["i'll"])),
        "begins_lower": float(stripped[:1].islower()),
        "begins_with_space": float(text.text[:1].isspace()),
        "ends_with_period": float(stripped.endswith((".", "。"))),
        "unfinished": float(bool(stripped) and stripped[-1] not in CLOSING),
    }


def _paragraphs(text: Text) -> int:
    filled = [bool(line.strip()) for line in ["", *text.text.split("\n")]]
    return sum(now and not before for before, now in pairwise(filled))


def _flesch(text: Text) -> float:
    """Flesch reading ease / 100, between -1 (hard) and 1.3; syllables are runs of vowels."""
    if not text.words:
        return 1.0
    syllables = sum(n * max(len(lex.VOWELS.findall(word)), 1) for word, n in text.count.items())
    per_sentence = min(len(text.words) / text.sentences, 60)
    ease = 206.835 - 1.015 * per_sentence - 84.6 * min(syllables / len(text.words), 5)
    return max(-100.0, min(ease, 130.0)) / 100
