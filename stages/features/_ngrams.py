"""N-grams of words and characters as integers, counted by compiled loops.

A word n-gram is one 64-bit key made of its word numbers. Character n-grams stay inside words, so
each distinct word is cut once, and a text has those of its words. Rare word n-grams are never all
held: first they are counted by a hash of few bits, where several share a count, and one whose
shared count is too small is not looked at again (Park, Chen and Yu 1995, "An effective hash-based
algorithm for mining association rules"); nor is one with a word that is too rare.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from stages.core.compiled import compiled

SLOTS = 1 << 16  # of the first hash table; doubled while it is more than half full
EMPTY = -1  # no key, no column, no text
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Tokens:
    """Texts as numbers of `words`: text i is `numbers[starts[i] : starts[i + 1]]`."""

    words: list[str]
    numbers: Ints
    starts: Ints

    @classmethod
    def of(cls, texts: Iterable[Iterable[str]], known: Mapping[str, int] | None = None) -> Self:
        """Number the words of `texts`, each a list of them, in order of first appearance.

        Words with a number in `known`, 0, 1 and so on, keep it.
        """
        index: defaultdict[str, int] = defaultdict(None, known or {})
        index.default_factory = index.__len__
        rows = [np.fromiter(map(index.__getitem__, text), np.int32) for text in texts]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return cls(list(index), np.concatenate([*rows, np.empty(0, np.int32)]), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def key(self, numbers: Iterable[int]) -> int:
        """The key of the words with these numbers: digits from 1, so that sizes do not mix."""
        return reduce(lambda key, number: key * (len(self.words) + 1) + number + 1, numbers, 0)

    def term(self, key: int) -> str:
        """The words behind a key, separated by a space."""
        digits = []
        while key:
            key, digit = divmod(key, len(self.words) + 1)
            digits.append(self.words[digit - 1])
        return " ".join(reversed(digits))


@dataclass(frozen=True)
class Pieces:
    """Character n-grams of `sizes`, and how often each word has each: `(n_words, n_grams)`."""

    sizes: tuple[int, int]
    grams: list[str]
    counts: sparse.csr_matrix

    @classmethod
    def of(cls, words: Iterable[str], shortest: int, longest: int) -> Self:
        """Cut words, with a space at both ends; one too short to be cut is taken whole."""
        cut = Tokens.of(_cut(f" {word} ", shortest, longest) for word in words)
        ones = np.ones(len(cut.numbers), np.float32)
        shape = (len(cut), len(cut.words))
        counts = sparse.csr_matrix((ones, cut.numbers, cut.starts.astype(np.int32)), shape=shape)
        counts.sum_duplicates()
        return cls((shortest, longest), cut.words, counts)

    def among(self, columns: Mapping[str, int], n: int) -> sparse.csr_matrix:
        """The counts of those n-grams that have a column, in a matrix of `n` columns."""
        places = np.array([columns.get(gram, EMPTY) for gram in self.grams], np.int64)
        triplets = self.counts.tocoo()
        hit = places[triplets.col] >= 0
        return sparse.csr_matrix(
            (triplets.data[hit], (triplets.row[hit], places[triplets.col[hit]])),
            shape=(self.counts.shape[0], n),
        )


def _cut(word: str, shortest: int, longest: int) -> list[str]:
    sizes = range(shortest, min(longest, len(word)) + 1)
    return [word[i : i + n] for n in sizes for i in range(len(word) - n + 1)] or [word]


def word_ngrams(tokens: Tokens, sizes: range, min_df: int) -> tuple[Ints, Ints]:
    """Keys of the n-grams that `min_df` texts or more have, and how often they occur in all."""
    n_words = len(tokens.words)
    n_texts, total, last = (np.full(n_words, n, np.int64) for n in (0, 0, EMPTY))
    compiled(_count_words)(tokens.numbers, tokens.starts, n_texts, total, last)
    frequent = n_texts >= min_df
    keys: list[Ints] = [np.empty(0, np.int64)]
    totals: list[Ints] = [np.empty(0, np.int64)]
    for size in sizes:
        if size == 1:
            keys.append(np.flatnonzero(frequent) + 1)
            totals.append(total[frequent])
            continue
        table = _count_ngrams(tokens, size, min_df, frequent)
        kept = table[1] >= min_df
        keys.append(table[0][kept])
        totals.append(table[2][kept])
    return np.concatenate(keys), np.concatenate(totals)


def _count_ngrams(
    tokens: Tokens, size: int, min_df: int, frequent: npt.NDArray[np.bool_]
) -> tuple[Ints, ...]:
    """A hash table of those that can be frequent: key, number of texts, total, last text."""
    shared = np.zeros(_slots(len(tokens.numbers)), np.uint8)
    given = (tokens.numbers, tokens.starts, size, len(tokens.words), frequent)
    compiled(_share)(*given, shared)
    table, text = _table(SLOTS), 0
    while text < len(tokens):
        text = compiled(_count_keys)(*given, min(min_df, 255), shared, *table, text)
        if text < len(tokens):
            larger = _table(2 * len(table[0]))
            compiled(_move)(*table, *larger)
            table = larger
    return table


def _table(n_slots: int) -> tuple[Ints, ...]:
    return tuple(np.full(n_slots, value, np.int64) for value in (EMPTY, 0, 0, EMPTY))


def _slots(n: int) -> int:
    """A power of two, twice `n` at least."""
    return 1 << max(2 * n - 1, 15).bit_length()


def texts_with(tokens: Tokens, pieces: Pieces) -> Ints:
    """How many texts have each character n-gram, `(n_grams,)`."""
    counts = pieces.counts
    n_texts, last = np.zeros(counts.shape[1], np.int64), np.full(counts.shape[1], EMPTY)
    seen = np.full(len(tokens.words), EMPTY)
    compiled(_count_texts)(
        tokens.numbers, tokens.starts, counts.indptr, counts.indices, n_texts, last, seen
    )
    return n_texts


@dataclass(frozen=True)
class Terms:
    """What counts the n-grams of a vocabulary in any texts, each in its column.

    Word n-grams come first, character n-grams behind them: `characters` has the columns of those
    of `sizes`. `number` has the words that are known beforehand; no other is in a word n-gram.
    `column` is that of each known word, or EMPTY; `linked` says which are in a longer n-gram,
    `table` is a hash table of their keys and columns; `pieces` are the character n-grams of the
    known words, `(n_words, n)`.
    """

    n: int
    longest: int
    sizes: tuple[int, int]
    characters: Mapping[str, int]
    number: Mapping[str, int]
    column: Ints
    linked: npt.NDArray[np.bool_]
    table: tuple[Ints, Ints]
    pieces: sparse.csr_matrix

    @classmethod
    def of(
        cls, tokens: Tokens, pieces: Pieces, words: Sequence[str], characters: Sequence[str]
    ) -> Self:
        """The columns of `words` and, behind them, of `characters`.

        Args:
            tokens: Their words are known: those in `words`, and others that come up often.
            pieces: The character n-grams of these words.
            words: Word n-grams.
            characters: Character n-grams.
        """
        number = {word: i for i, word in enumerate(tokens.words)}
        column = np.full(len(number), EMPTY, np.int32)
        linked = np.zeros(len(number), np.bool_)
        keys, columns, longest = [], [], 1
        for place, term in enumerate(words):
            digits = [number[word] for word in term.split(" ")]
            if len(digits) == 1:
                column[digits[0]] = place
                continue
            keys.append(tokens.key(digits))
            columns.append(place)
            linked[digits] = True
            longest = max(longest, len(digits))
        table = tuple(np.full(_slots(len(keys)), EMPTY, np.int64) for _ in range(2))
        compiled(_fill)(np.array(keys, np.int64), np.array(columns, np.int64), *table)
        n = len(words) + len(characters)
        places = {gram: len(words) + i for i, gram in enumerate(characters)}
        known = pieces.among(places, n)
        return cls(
            n, longest, pieces.sizes, places, number, column, linked, (table[0], table[1]), known
        )

    def count(self, texts: Iterable[Iterable[str]]) -> sparse.csr_matrix:
        """How often each text, a list of words, has each n-gram: `(n_texts, n)`, in float32."""
        tokens = Tokens.of(texts, self.number)
        new = tokens.words[len(self.number) :]
        cut = Pieces.of(new, *self.sizes).among(self.characters, self.n)
        pieces = sparse.vstack([self.pieces, cut], format="csr")
        column = np.append(self.column, np.full(len(new), EMPTY, np.int32))
        linked = np.append(self.linked, np.zeros(len(new), np.bool_))
        largest = np.append(0, np.cumsum(self.longest + np.diff(pieces.indptr)[tokens.numbers]))
        room = int(np.minimum(np.diff(largest[tokens.starts]), self.n).sum())
        indptr = np.zeros(len(tokens) + 1, np.int64)
        indices, data = np.empty(room, np.int32), np.empty(room, np.float32)
        compiled(_count_terms)(
            tokens.numbers, tokens.starts, len(self.number), self.longest, column,
            linked, *self.table, pieces.indptr, pieces.indices, pieces.data,
            np.zeros(self.n, np.float32), np.zeros(self.n // 64 + 1, np.uint64), BIT_OF,
            indptr, indices, data,
        )  # fmt: skip
        n = indptr[-1]
        return sparse.csr_matrix(
            (data[:n].copy(), indices[:n].copy(), indptr), shape=(len(tokens), self.n)
        )


# --- compiled ------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing (Knuth, TAOCP 6.4)
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # finds the lowest bit of a 64-bit number
BIT_OF = np.zeros(64, np.int64)
BIT_OF[[(int(DE_BRUIJN) << i & 2**64 - 1) >> 58 for i in range(64)]] = np.arange(64)


def _count_words(numbers, starts, n_texts, total, last):  # type: ignore[no-untyped-def]
    for text in range(len(starts) - 1):
        for i in range(starts[text], starts[text + 1]):
            word = numbers[i]
            total[word] += 1
            if last[word] != text:
                last[word] = text
                n_texts[word] += 1


def _share(numbers, starts, size, n_words, frequent, shared):  # type: ignore[no-untyped-def]
    shift = np.uint64(64 - np.int64(np.log2(len(shared)) + 0.5))
    for text in range(len(starts) - 1):
        for i in range(starts[text], starts[text + 1] - size + 1):
            key = 0
            for j in range(i, i + size):
                if not frequent[numbers[j]]:
                    key = 0
                    break
                key = key * (n_words + 1) + numbers[j] + 1
            if key:
                slot = (np.uint64(key) * GOLDEN) >> shift
                if shared[slot] < 255:
                    shared[slot] += 1


def _count_keys(  # type: ignore[no-untyped-def]
    numbers, starts, size, n_words, frequent, least, shared, keys, n_texts, total, last, first
):
    """Count from the text `first` on; returns the text for which the table is too small."""
    shift = np.uint64(64 - np.int64(np.log2(len(shared)) + 0.5))
    shift_keys = np.uint64(64 - np.int64(np.log2(len(keys)) + 0.5))
    mask = len(keys) - 1
    used = 0
    for old in keys:
        used += old != EMPTY
    for text in range(first, len(starts) - 1):
        if used + starts[text + 1] - starts[text] > len(keys) // 2:
            return text
        for i in range(starts[text], starts[text + 1] - size + 1):
            key = 0
            for j in range(i, i + size):
                if not frequent[numbers[j]]:
                    key = 0
                    break
                key = key * (n_words + 1) + numbers[j] + 1
            if not key or shared[(np.uint64(key) * GOLDEN) >> shift] < least:
                continue
            slot = np.int64((np.uint64(key) * GOLDEN) >> shift_keys)
            while keys[slot] != EMPTY and keys[slot] != key:
                slot = (slot + 1) & mask
            used += keys[slot] == EMPTY
            keys[slot] = key
            total[slot] += 1
            if last[slot] != text:
                last[slot] = text
                n_texts[slot] += 1
    return len(starts) - 1


def _move(  # type: ignore[no-untyped-def]
    keys, n_texts, total, last, new_keys, new_n_texts, new_total, new_last
):
    shift = np.uint64(64 - np.int64(np.log2(len(new_keys)) + 0.5))
    for old in range(len(keys)):
        if keys[old] != EMPTY:
            slot = np.int64((np.uint64(keys[old]) * GOLDEN) >> shift)
            while new_keys[slot] != EMPTY:
                slot = (slot + 1) & (len(new_keys) - 1)
            new_keys[slot] = keys[old]
            new_n_texts[slot] = n_texts[old]
            new_total[slot] = total[old]
            new_last[slot] = last[old]


def _fill(given, columns, keys, values):  # type: ignore[no-untyped-def]
    shift = np.uint64(64 - np.int64(np.log2(len(keys)) + 0.5))
    for i in range(len(given)):
        slot = np.int64((np.uint64(given[i]) * GOLDEN) >> shift)
        while keys[slot] != EMPTY:
            slot = (slot + 1) & (len(keys) - 1)
        keys[slot] = given[i]
        values[slot] = columns[i]


def _count_texts(  # type: ignore[no-untyped-def]
    numbers, starts, piece_starts, pieces, n_texts, last, seen
):
    for text in range(len(starts) - 1):
        for i in range(starts[text], starts[text + 1]):
            word = numbers[i]
            if seen[word] != text:
                seen[word] = text
                for k in range(piece_starts[word], piece_starts[word + 1]):
                    piece = pieces[k]
                    if last[piece] != text:
                        last[piece] = text
                        n_texts[piece] += 1


def _count_terms(  # type: ignore[no-untyped-def]
    numbers, starts, n_words, longest, column, linked, keys, columns,
    piece_starts, pieces, piece_counts, count, marks, bit_of, indptr, indices, data,
):  # fmt: skip
    """Counts text by text in `count`; the bits of `marks` say in order which ones are not 0."""
    shift = np.uint64(64 - np.int64(np.log2(len(keys)) + 0.5))
    one = np.uint64(1)
    at = 0
    for text in range(len(starts) - 1):
        end = starts[text + 1]
        for i in range(starts[text], end):
            word = numbers[i]
            if column[word] >= 0:
                count[column[word]] += 1
                marks[column[word] >> 6] |= one << np.uint64(column[word] & 63)
            if linked[word]:
                key = 1 + word
                for j in range(i + 1, min(i + longest, end)):
                    if not linked[numbers[j]]:
                        break
                    key = key * (n_words + 1) + numbers[j] + 1
                    slot = np.int64((np.uint64(key) * GOLDEN) >> shift)
                    while keys[slot] != EMPTY and keys[slot] != key:
                        slot = (slot + 1) & (len(keys) - 1)
                    if keys[slot] == key:
                        place = columns[slot]
                        count[place] += 1
                        marks[place >> 6] |= one << np.uint64(place & 63)
            for k in range(piece_starts[word], piece_starts[word + 1]):
                place = pieces[k]
                count[place] += piece_counts[k]
                marks[place >> 6] |= one << np.uint64(place & 63)
        for part in range(len(marks)):
            bits = marks[part]
            while bits:
                lowest = bits & (~bits + one)
                place = (part << 6) + bit_of[np.int64((lowest * DE_BRUIJN) >> np.uint64(58))]
                indices[at] = place
                data[at] = count[place]
                count[place] = 0
                at += 1
                bits ^= lowest
            marks[part] = 0
        indptr[text + 1] = at
