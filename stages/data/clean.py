"""Rows to cleaned tokens: noise removed, split into words, each distinct word normalised once.

In: labels.json; rows.parquet: `id` and the text columns of the task, each a text or list of turns.
Out: clean.parquet, `id` and one string for each text column: its tokens joined by one space, or "".

Each text is freed of control characters and folded to Unicode NFKC, on request also freed of URLs
and of HTML and Markdown syntax, then tokenised. Lower case, stop words,
lemmas and stems depend on the word alone, so each distinct word of a chunk is normalised once: a
stemmer is forty times slower than a tokeniser.

The tokeniser `regexp` takes words with inner apostrophes, single signs, and Chinese and Japanese,
which have no spaces, character by character (n-grams of them do the work of words); the others are
NLTK's. Stemmers lower-case what they stem, as NLTK's do.

    python -m stages.data.clean --dataset demo
"""

import html
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import pandas as pd
import regex

from stages.core.layout import Layout
from stages.core.params import Params, read_params
from stages.core.tables import join_turns
from stages.core.tasks import read_task
from stages.data._nltk import GET_WORDNET, from_nltk_data
from stages.runtime.batches import map_table
from stages.runtime.cli import run

log = logging.getLogger("verdict")

ROWS_PER_CHUNK = 1024
PARALLEL_FROM = 6000  # rows; below, starting processes does not pay

# Controls that are no white space, invisible format characters, lone surrogates, the mark of a lost
# character. The joiners U+200C and U+200D stay: Persian words and composed emoji need them.
CONTROL = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\ufffd]"
)
URL = re.compile(r"""(?:https?://|www\.)[^\s<>"'\])}]+""")
MARKUP = (  # bounded repeats: no text can make them slow
    (re.compile(r"<[/!]?[A-Za-z][^<>]{0,500}>|<!--|-->"), " "),
    (re.compile(r"!?\[([^\[\]]{0,500})\]\([^()\s]{0,500}\)"), r"\1"),
    (re.compile(r"(?:```|~~~)\w*"), " "),
    (
        re.compile(r"^[-=*_|:][-=*_|: \t]*$", re.MULTILINE),
        "",
    ),  # rules, underlined headers, the line below a table's head
    (re.compile(r"^[ \t]*(?:(?:#{1,6}|>|[-*+•]|\d{1,3}[.)])[ \t]+)+", re.MULTILINE), ""),
    (re.compile(r"\*+|`+|~~|\||__+|\b_|_\b"), " "),
)
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# `regex`, since for `re` the vowel signs of Hindi or Telugu end a word; not by RegexpTokenizer of
# NLTK, which is three times as slow and gives up a text after five seconds
TOKEN = regex.compile(rf"[{CJK}]|[^\W{CJK}]+(?:'[^\W{CJK}]+)*|[^\w\s]")


class CleanParams(Params):
    """What is removed from a text, how it is split, and what becomes of its words."""

    section = "clean"

    lower: bool = True
    strip_urls: bool = True
    strip_markup: bool = False
    # tokens of punctuation and mathematical signs only; emoji and currencies stay
    strip_punctuation: bool = False
    tokenizer: Literal["regexp", "treebank", "tweet", "toktok"] = "regexp"
    stop_words: Literal["none", "sklearn", "nltk"] = "none"
    lemmatize: Literal["none", "wordnet"] = "none"
    stem: Literal["none", "snowball", "porter"] = "none"


def strip_noise(text: str, *, urls: bool, markup: bool) -> str:
    """The text without control characters (and URLs, markup), in NFKC with straight apostrophes."""
    if markup:  # before URLs go, which are a part of links
        for pattern, replacement in MARKUP:
            text = pattern.sub(replacement, text)
        text = html.unescape(text)
    if urls:
        text = URL.sub(" ", text)
    return CONTROL.sub("", unicodedata.normalize("NFKC", text)).replace("’", "'")


def make_tokenizer(name: str) -> Callable[[str], Sequence[str]]:
    """What splits a text into words and signs: our own pattern, or a tokeniser of NLTK."""
    tokenizer: Callable[[str], Sequence[str]] = TOKEN.findall
    if name != "regexp":
        from nltk import tokenize

        classes = {
            "treebank": tokenize.TreebankWordTokenizer,
            "tweet": tokenize.TweetTokenizer,
            "toktok": tokenize.ToktokTokenizer,
        }
        tokenizer = classes[name]().tokenize
    return tokenizer


def make_normalizer(params: CleanParams) -> Callable[[str], str]:
    """What becomes of a word: its normal form, or "" where it is dropped; worked out once a word.

    Raises:
        InputError: NLTK data that the params need are not installed.
    """
    stop_words = make_stop_words(params.stop_words)
    steps: list[Callable[[str], str]] = []
    if params.lower:
        steps.append(str.lower)
    if params.lemmatize == "wordnet":
        steps.append(make_lemmatizer())
    if params.stem != "none":
        steps.append(make_stemmer(params.stem))

    @cache
    def normal_form(word: str) -> str:
        if (params.strip_punctuation and is_punctuation(word)) or word.lower() in stop_words:
            return ""
        for step in steps:
            word = step(word)
        return word

    return normal_form


def is_punctuation(word: str) -> bool:
    """Whether the word is made of punctuation, mathematical signs and free accents only."""
    categories = map(unicodedata.category, word)
    return all(category[0] == "P" or category in {"Sm", "Sk"} for category in categories)


def make_stop_words(name: str) -> frozenset[str]:
    """Lower-case English stop words: none, scikit-learn's 318, or NLTK's (an installed corpus)."""
    if name == "sklearn":
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(ENGLISH_STOP_WORDS)
    if name == "nltk":
        from nltk.corpus import stopwords

        how = "get it with `python -m nltk.downloader stopwords`"
        return frozenset(
            from_nltk_data("stop_words: nltk", how, lambda: stopwords.words("english"))
        )
    return frozenset()


def make_stemmer(name: str) -> Callable[[str], str]:
    """NLTK's English Snowball stemmer, or Porter's original one."""
    from nltk.stem import PorterStemmer, SnowballStemmer

    stemmer = SnowballStemmer("english") if name == "snowball" else PorterStemmer()
    stem: Callable[[str], str] = stemmer.stem
    return stem


def make_lemmatizer() -> Callable[[str], str]:
    """WordNet lemmas: a word as a noun, then, where that changed nothing, as a verb.

    `morphy` and not `lemmatize`, which takes the shortest lemma and makes `u` of `us`. Function
    words are looked up as verbs only: as nouns, `was` is several `wa` and `does` are deer. Nor is
    a noun of two letters taken, such as the `v` of `vs`.
    """
    from nltk.corpus import wordnet

    from_nltk_data("lemmatize: wordnet", GET_WORDNET, lambda: wordnet.morphy("words", "n"))
    function_words = make_stop_words("sklearn") | {"does"}

    def lemma(word: str) -> str:
        noun = None if word.lower() in function_words else wordnet.morphy(word, "n")
        if noun and noun != word and len(noun) > 2:
            return str(noun)
        return wordnet.morphy(word, "v") or word

    return lemma


def clean_texts(texts: pd.DataFrame, params: CleanParams) -> pd.DataFrame:
    """Each text as its normalised tokens, joined by one space."""
    tokenize, normal_form = make_tokenizer(params.tokenizer), make_normalizer(params)

    def clean(value: Any) -> str:
        text = strip_noise(join_turns(value), urls=params.strip_urls, markup=params.strip_markup)
        return " ".join(filter(None, map(normal_form, tokenize(text))))

    return pd.DataFrame(
        {name: [clean(value) for value in texts[name]] for name in texts}, dtype="str"
    )


def main(*, dataset: str) -> None:
    """Clean and tokenise the text columns."""
    layout = Layout(dataset)
    params = read_params(CleanParams, layout)
    columns = read_task(layout.labels).text_columns
    make_normalizer(params)  # missing NLTK data shall show here, not in a worker
    n_rows = map_table(
        partial(clean_texts, params=params), layout.augmented, columns, layout.clean,
        size=ROWS_PER_CHUNK, alone=PARALLEL_FROM,
    )  # fmt: skip
    log.info("clean: %d rows, %d text columns", n_rows, len(columns))


if __name__ == "__main__":
    run(main)
