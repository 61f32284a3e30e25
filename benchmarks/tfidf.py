"""TF-IDF beside scikit-learn's pair of vectorisers, on the cleaned texts of a set.

    dvc repro clean@demo; OMP_NUM_THREADS=1 VERDICT_WORKERS=1 python benchmarks/tfidf.py
    ... --words 1 2 --characters 2 5 --texts 30000

Both fit and weigh all texts, words and characters, from strings to a matrix in memory. What is
compared: wall seconds (scikit-learn's run on one core whatever there is); the vocabularies: terms
that one of them has alone should be as frequent as the last one taken, a tie; and the values, once
scikit-learn was given our vocabulary, since the norm of a row is one of all its terms.
"""

import time

import cyclopts
import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from stages.core.idf import fit_idf, weigh
from stages.core.layout import Layout
from stages.core.matrices import Block
from stages.core.params import read_params
from stages.core.tables import read_table
from stages.core.tasks import read_task
from stages.features import tfidf


def ours(texts, params):
    vocabulary, terms = tfidf.fit(texts, params)
    frequencies = tfidf.transform(texts, terms)
    X = weigh(Block(frequencies, vocabulary.names), fit_idf([frequencies]))
    return X, [f"word {t}" for t in vocabulary.words] + [f"char {t}" for t in vocabulary.characters]


def kinds(params):
    """For words and characters: how names of terms begin, what is asked, scikit-learn's options."""
    for kind, own, options in (
        ("word ", params.words, {"token_pattern": r"\S+"}),
        ("char ", params.characters, {"analyzer": "char_wb"}),
    ):
        yield kind, own, options | {"ngram_range": (own.shortest, own.longest), "lowercase": False}


def terms_of(names, kind):
    return [name.removeprefix(kind) for name in names if name.startswith(kind)]


def theirs(texts, params, known=None):
    """Matrix and terms; `known` terms instead of the most frequent."""
    parts, names = [], []
    for kind, own, options in kinds(params):
        limits = {"min_df": own.min_df, "max_features": own.max_features}
        if known is not None:
            limits = {"vocabulary": terms_of(known, kind)}
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **limits, **options)
        parts.append(vectorizer.fit_transform(texts))
        names += [f"{kind}{term}" for term in vectorizer.get_feature_names_out()]
    return sparse.hstack(parts, format="csr"), names


def totals(texts, names, params):
    """How often all texts together have each of these terms, words and characters apart."""
    found = []
    for kind, _, options in kinds(params):
        if terms := terms_of(names, kind):
            counts = CountVectorizer(vocabulary=terms, **options).transform(texts)
            found.append(set(counts.sum(axis=0).A1.tolist()))
    return found


def main(
    *, dataset: str = "demo", texts: int = 10**9,
    words: tuple[int, int] = (1, 2), characters: tuple[int, int] = (2, 5),
) -> None:  # fmt: skip
    """Print a table of seconds, and what differs."""
    layout = Layout(dataset)
    given = read_params(tfidf.TfidfParams, layout).model_dump(mode="json")
    given["words"] |= dict(zip(("shortest", "longest"), words, strict=True))
    given["characters"] |= dict(zip(("shortest", "longest"), characters, strict=True))
    params = tfidf.TfidfParams(**given)
    clean = read_table(layout.clean)
    columns = read_task(layout.labels).text_columns
    taken = [text for column in columns for text in clean[column].tolist()][:texts]
    ours(taken[:10], tfidf.TfidfParams(**(given | {
        kind: given[kind] | {"min_df": 1} for kind in ("words", "characters")
    })))  # compiles  # fmt: skip
    started = time.perf_counter()
    X, names = ours(taken, params)
    middle = time.perf_counter()
    _, their_names = theirs(taken, params)
    seconds = middle - started, time.perf_counter() - middle
    others = sorted(set(names) ^ set(their_names))
    tied = all(len(own) == 1 for own in totals(taken, others, params))
    Z, _ = theirs(taken, params, names)
    gap = abs(X - Z).max()
    print(f"\n{len(taken)} texts, words {words}, characters {characters}\n")
    print("| | s | terms |\n| --- | ---: | ---: |")
    print(f"| verdict | {seconds[0]:.1f} | {len(names)} |")
    print(f"| TfidfVectorizer, twice | {seconds[1]:.1f} | {len(their_names)} |")
    print(f"\n{seconds[1] / seconds[0]:.1f} times as fast; {len(others)} terms are in one only, ")
    print(f"{'all' if tied else 'NOT all'} ties; values differ by {gap:.1e}")


if __name__ == "__main__":
    cyclopts.run(main)
