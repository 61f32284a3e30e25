"""Amounts that an English text compares, put into words: no model of words can subtract.

"Operating profit was EUR 9.8 mn, compared to a loss of EUR 12.7 mn" is good news, of which no word
tells. An amount has a unit (a currency, per cent) or a scale (million); where a word like
`compared` or `from` stands between two of them, the first is the new one. What is called a loss
counts below zero.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

SCALES = {
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "mn", "mln", "million"), 1e6),
    **dict.fromkeys(("bn", "bln", "billion"), 1e9),
}
UNITS = {  # other names of a unit
    **dict.fromkeys(("euro", "euros", "€"), "eur"),
    **dict.fromkeys(("usd", "us$", "us $"), "$"),
    **dict.fromkeys(("percent", "per cent", "pct"), "%"),
}
CURRENCY = r"eur|euros?|€|us ?\$|usd|\$|gbp|£|sek|dkk|nok|crowns|eek|kroons?|rub|roubles?|¥"
AMOUNT = re.compile(
    rf"(?P<negative>\bnegative )?(?:(?<!\w)(?P<before>{CURRENCY}) ?)?(?<![\d.])(?P<minus>- ?)?"
    r"(?P<number>\d{1,3}(?: ?,\d{3})+|\d+)(?P<decimals> ?\.\d+)? ?"
    rf"(?:(?P<scale>{'|'.join(SCALES)})\b)? ?"
    rf"(?P<after>(?:{CURRENCY})(?!\w)|%|percent\b|per cent\b|pct\b)?",
    re.IGNORECASE,
)
BETWEEN = re.compile(
    r"\b(?:compared|versus|against|vs|from|as opposed to|year[- ](?:earlier|ago|before)"
    r"|(?:corresponding|same|previous|prior) (?:period|quarter|year))\b",
    re.IGNORECASE,
)
KIND = r"(?P<loss>loss|losses|deficit)\b|(?:profits?|earnings|surplus|income)\b"
BEFORE = re.compile(rf"\b(?:{KIND})", re.IGNORECASE)
BEHIND = re.compile(rf" *(?:(?:net|operating|pretax|pre-tax) )?(?:{KIND})", re.IGNORECASE)
ASIDE = re.compile(r"\([^()]{0,100}\)")  # the same in another currency, mostly
NEAR = 100  # characters that one side of a comparison may take
LONGEST = 50  # characters of an amount that begins there, which is not to be cut


@dataclass(frozen=True)
class Amount:
    """A number with what stands beside it."""

    start: int
    end: int
    number: float
    scale: float | None  # None where the text gives none, as in `5.1 against 4.8 million`
    unit: str


def amounts(text: str, start: int, end: int) -> Iterator[Amount]:
    """The amounts of a part of a text; numbers alone (years, counts) are none."""
    for match in AMOUNT.finditer(text, start, end + LONGEST):
        if match.start() >= end:
            return
        unit = (match["before"] or match["after"] or "").lower()
        scale = SCALES.get((match["scale"] or "").lower())
        if unit or scale:
            digits = re.sub("[ ,]", "", match["number"] + (match["decimals"] or ""))
            number = float(digits) * (-1 if match["minus"] or match["negative"] else 1)
            if scale is None and abs(number) >= 1000:
                scale = 1.0
            yield Amount(match.start(), match.end(), number, scale, UNITS.get(unit, unit))


def comparison(text: str) -> str | None:
    """`rose` or `fell`, for losses `improved` or `worsened`; None where nothing is compared."""
    text = ASIDE.sub(lambda aside: " " * len(aside[0]), text)
    for word in BETWEEN.finditer(text):
        old = next(amounts(text, word.end(), word.end() + NEAR), None)
        news = amounts(text, max(0, word.start() - NEAR), word.start())
        alike = [each for each in news if old and _alike(each, old)]
        if old is None or not alike:
            continue
        new = max(alike, key=lambda each: (each.unit == old.unit, each.start))
        if text.endswith("from ", 0, new.start):
            continue
        sign, end = _sign(text, max(0, new.start - NEAR), new, 1)
        old_sign, _ = _sign(text, end, old, sign)
        now = _signed(new, old, sign)
        before = _signed(old, new, old_sign)
        if now != before:
            with_loss = min(sign, old_sign, now, before) < 0
            return (("fell", "rose"), ("worsened", "improved"))[with_loss][now > before]
    return None


def put_into_words(rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """The rows; in their text `columns` each text, or turn, says at its end what it compares."""
    changed = {column: [_put(text) for text in rows[column]] for column in columns}
    return rows.assign(**changed)


def _put(text: Any) -> Any:
    if text is None or isinstance(text, float):  # pandas holds a null text as NaN
        return text
    if not isinstance(text, str):
        return [_put(turn) for turn in text]
    found = comparison(text)
    return f"{text} ({found})" if found else text


def _alike(one: Amount, other: Amount) -> bool:
    """Of the same unit, or of money where one has no sign of it."""
    units = {one.unit, other.unit}
    return len(units) == 1 or ("" in units and "%" not in units)


def _sign(text: str, start: int, amount: Amount, default: int) -> tuple[int, int]:
    """-1 for a loss, by the word behind the amount or the last one before; where that word ends."""
    behind = BEHIND.match(text, amount.end)
    words = [behind] if behind else [*BEFORE.finditer(text, start, amount.start)]
    if not words:
        return default, amount.end
    return -1 if words[-1]["loss"] else 1, behind.end() if behind else amount.end


def _signed(amount: Amount, other: Amount, sign: int) -> float:
    scale = amount.scale or other.scale or 1.0
    return amount.number * scale * (sign if amount.number > 0 else 1)
