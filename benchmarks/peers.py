"""What a user would write instead of the stages, each part as its library's documentation has it.

Read from the data that the stages made: rows and folds, so that all are judged on the same rows.

    python benchmarks/peers.py --name logreg --data data/demo --out peer.json --folds 1
"""

import json
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import cyclopts
import numpy as np
from scipy import sparse

from stages.core.folds import read_folds
from stages.core.tables import by_id, read_table
from stages.core.tasks import read_task


@dataclass
class Job:
    """Data, how many of its folds to fit, and what the fits of the others would have taken."""

    data: Path
    n_folds: int
    left_out: dict[str, float] = field(default_factory=lambda: {"wall": 0.0, "cpu": 0.0})


def texts_of(data):
    """Cleaned texts of the rows, prompt and both answers joined, and one list a column."""
    task = read_task(data / "labels.json")
    folds = read_folds(data / "folds.parquet", task)
    clean = by_id(read_table(data / "clean.parquet"), folds.ids, data)
    columns = [clean[column].tolist() for column in task.text_columns]
    return [" ".join(row) for row in zip(*columns, strict=True)], columns


def judge_folds(job, name, fit_predict):
    """Log loss of `fit_predict(train rows, y of these, held rows)`, fold by fold.

    That is `cross_val_predict` over the stored folds. The predictions are kept.
    """
    task = read_task(job.data / "labels.json")
    folds = read_folds(job.data / "folds.parquet", task)
    y = folds.targets.argmax(axis=1)
    chosen = folds.numbers[: job.n_folds]
    found = np.full(folds.targets.shape, np.nan)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in chosen:
        train, held = folds.train(number), folds.held(number)
        found[held] = fit_predict(train, y[train], held)
    rest = len(folds.numbers) / len(chosen) - 1
    job.left_out["wall"] += rest * (time.perf_counter() - wall)
    job.left_out["cpu"] += rest * (time.process_time() - cpu)
    np.save(job.data / f"peer-oof-{name}.npy", found)
    return log_loss(task, folds, found)


def log_loss(task, folds, found):
    """Mean over the rows that were predicted."""
    rows = np.flatnonzero(~np.isnan(found[:, 0]))
    return {"log loss": float(task.row_losses(folds.targets[rows], found[rows]).mean())}


def crossfit(job, name, model, X):
    """`judge_folds` of a scikit-learn classifier on the features `X`."""
    from sklearn.base import clone

    def fit_predict(train, y, held):
        return clone(model).fit(X[train], y).predict_proba(X[held])

    return judge_folds(job, name, fit_predict)


def tfidf(job):
    from sklearn.feature_extraction.text import TfidfVectorizer

    joined, _ = texts_of(job.data)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, max_features=30_000)
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), min_df=5, max_features=30_000
    )
    X = sparse.hstack([words.fit_transform(joined), characters.fit_transform(joined)], format="csr")
    sparse.save_npz(job.data / "peer-tfidf.npz", X, compressed=False)
    return {}


def logreg(job):
    from sklearn.linear_model import LogisticRegression

    return crossfit(
        job, "logreg", LogisticRegression(), sparse.load_npz(job.data / "peer-tfidf.npz")
    )


def svm(job):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    X = sparse.load_npz(job.data / "peer-tfidf.npz")
    return crossfit(job, "svm", CalibratedClassifierCV(LinearSVC()), X)


def word2vec(job):
    from gensim.models import Word2Vec

    _, columns = texts_of(job.data)
    sentences = [text.split() for column in columns for text in column]
    vectors = Word2Vec(sentences, min_count=2, workers=2).wv
    means = np.zeros((len(sentences), vectors.vector_size), np.float32)
    for i, words in enumerate(sentences):
        known = [vectors[word] for word in words if word in vectors]
        if known:
            means[i] = np.mean(known, axis=0)
    np.save(job.data / "peer-word2vec.npy", np.hstack(np.split(means, len(columns))))
    return {}


def forest(job):
    from sklearn.ensemble import RandomForestClassifier

    return crossfit(
        job, "forest", RandomForestClassifier(n_jobs=-1), np.load(job.data / "peer-word2vec.npy")
    )


def xgb(job):
    from xgboost import XGBClassifier

    return crossfit(job, "xgb", XGBClassifier(), np.load(job.data / "peer-word2vec.npy"))


def lgbm(job):
    from lightgbm import LGBMClassifier

    return crossfit(
        job, "lgbm", LGBMClassifier(verbosity=-1), np.load(job.data / "peer-word2vec.npy")
    )


def mlp(job):
    from sklearn.neural_network import MLPClassifier

    return crossfit(job, "mlp", MLPClassifier(), np.load(job.data / "peer-word2vec.npy"))


def mean(job):
    """The mean of all, the ensemble that takes one line."""
    task = read_task(job.data / "labels.json")
    folds = read_folds(job.data / "folds.parquet", task)
    found = np.mean([np.load(file) for file in sorted(job.data.glob("peer-oof-*.npy"))], axis=0)
    return log_loss(task, folds, found)


def fasttext(job):
    """`train_supervised` with bigrams, as its tutorial ends; `pip install fasttext`."""
    from fasttext import train_supervised

    texts = np.array(texts_of(job.data)[0])

    def fit_predict(train, y, held):
        file = job.data / "peer-fasttext.txt"
        file.write_text(
            "\n".join(f"__label__{k} {t}" for k, t in zip(y, texts[train], strict=True))
        )
        model = train_supervised(str(file), wordNgrams=2, thread=2, verbose=0)
        names, shares = model.predict(texts[held].tolist(), k=-1)
        order = [np.argsort([int(name.removeprefix("__label__")) for name in row]) for row in names]
        found = np.array([row[place] for row, place in zip(shares, order, strict=True)], float)
        return found / found.sum(axis=1, keepdims=True)

    return judge_folds(job, "fasttext", fit_predict)


def autogluon(job):
    """`TabularPredictor` on the columns of texts, ten minutes a fold at most.

    `pip install autogluon.tabular[lightgbm,xgboost]`; its pandas is older than ours, so it takes an
    environment of its own.
    """
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    table = pd.DataFrame(dict(enumerate(texts_of(job.data)[1]))).add_prefix("text ")

    def fit_predict(train, y, held):
        predictor = TabularPredictor("label", eval_metric="log_loss", verbosity=0)
        predictor.fit(table.iloc[train].assign(label=y), time_limit=600)
        return predictor.predict_proba(table.iloc[held])[[0, 1, 2]].to_numpy()

    return judge_folds(job, "autogluon", fit_predict)


ALL = (tfidf, logreg, svm, word2vec, forest, xgb, lgbm, mlp, mean, fasttext, autogluon)
PEERS = {peer.__name__: peer for peer in ALL}


def main(*, name: str, data: Path, out: Path, folds: int = 5) -> None:
    """Run one peer on the folder `data`, on so many of its folds; what it found goes to `out`."""
    warnings.simplefilter("ignore")  # of lbfgs, which does not converge in its 100 steps
    job = Job(data, folds)
    scores = PEERS[name](job)
    out.write_text(json.dumps({"scores": scores, "left_out": job.left_out}))


if __name__ == "__main__":
    cyclopts.run(main)
