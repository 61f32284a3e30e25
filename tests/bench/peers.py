"""What a user would write instead of the stages, each part as its library's documentation has it.

Read from the data that the stages made: rows and folds, so that all are judged on the same rows.

    python tests/bench/peers.py --name logreg --data data/demo --out peer.json
"""

import json
import warnings
from pathlib import Path

import cyclopts
import numpy as np
from scipy import sparse

from stages.base.folds import read_folds
from stages.base.tables import by_id, read_table
from stages.base.tasks import read_task


def texts_of(data):
    """Cleaned texts of the rows, prompt and both answers joined, and one list a column."""
    task = read_task(data / "labels.json")
    folds = read_folds(data / "folds.parquet", task)
    clean = by_id(read_table(data / "clean.parquet"), folds.ids, data)
    columns = [clean[column].tolist() for column in task.text_columns]
    return [" ".join(row) for row in zip(*columns, strict=True)], columns


def crossfit(data, name, model, X):
    """Log loss of `cross_val_predict` on the stored folds; the predictions are kept."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    task = read_task(data / "labels.json")
    folds = read_folds(data / "folds.parquet", task)
    rows = folds.judged
    y = folds.targets[rows].argmax(axis=1)
    found = cross_val_predict(
        model, X[rows], y, cv=PredefinedSplit(folds.fold[rows]), method="predict_proba"
    )
    np.save(data / f"peer-oof-{name}.npy", found)
    return {"log loss": float(task.row_losses(folds.targets[rows], found).mean())}


def tfidf(data):
    from sklearn.feature_extraction.text import TfidfVectorizer

    joined, _ = texts_of(data)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, max_features=30_000)
    characters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), min_df=5, max_features=30_000
    )
    X = sparse.hstack([words.fit_transform(joined), characters.fit_transform(joined)], format="csr")
    sparse.save_npz(data / "peer-tfidf.npz", X, compressed=False)
    return {}


def logreg(data):
    from sklearn.linear_model import LogisticRegression

    return crossfit(data, "logreg", LogisticRegression(), sparse.load_npz(data / "peer-tfidf.npz"))


def svm(data):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    X = sparse.load_npz(data / "peer-tfidf.npz")
    return crossfit(data, "svm", CalibratedClassifierCV(LinearSVC()), X)


def word2vec(data):
    from gensim.models import Word2Vec

    _, columns = texts_of(data)
    sentences = [text.split() for column in columns for text in column]
    vectors = Word2Vec(sentences, vector_size=300, min_count=2, workers=2).wv
    means = np.zeros((len(sentences), 300), np.float32)
    for i, words in enumerate(sentences):
        known = [vectors[word] for word in words if word in vectors]
        if known:
            means[i] = np.mean(known, axis=0)
    np.save(data / "peer-word2vec.npy", np.hstack(np.split(means, len(columns))))
    return {}


def forest(data):
    from sklearn.ensemble import RandomForestClassifier

    return crossfit(
        data, "forest", RandomForestClassifier(n_jobs=-1), np.load(data / "peer-word2vec.npy")
    )


def xgb(data):
    from xgboost import XGBClassifier

    return crossfit(data, "xgb", XGBClassifier(), np.load(data / "peer-word2vec.npy"))


def lgbm(data):
    from lightgbm import LGBMClassifier

    return crossfit(data, "lgbm", LGBMClassifier(verbosity=-1), np.load(data / "peer-word2vec.npy"))


def mlp(data):
    from sklearn.neural_network import MLPClassifier

    return crossfit(data, "mlp", MLPClassifier(), np.load(data / "peer-word2vec.npy"))


def mean(data):
    """The mean of all, the ensemble that takes one line."""
    task = read_task(data / "labels.json")
    folds = read_folds(data / "folds.parquet", task)
    found = np.mean([np.load(file) for file in sorted(data.glob("peer-oof-*.npy"))], axis=0)
    return {"log loss": float(task.row_losses(folds.targets[folds.judged], found).mean())}


def judge_folds(data, fit_predict):
    """Log loss of `fit_predict(train rows, y of these, held rows)`, fold by fold."""
    task = read_task(data / "labels.json")
    folds = read_folds(data / "folds.parquet", task)
    y = folds.targets.argmax(axis=1)
    found = np.zeros(folds.targets.shape)
    for number in folds.numbers:
        train, held = folds.train(number), folds.held(number)
        found[held] = fit_predict(train, y[train], held)
    rows = folds.judged
    return {"log loss": float(task.row_losses(folds.targets[rows], found[rows]).mean())}


def fasttext(data):
    """`train_supervised` with bigrams, as its tutorial ends; `pip install fasttext`."""
    from fasttext import train_supervised

    texts = np.array(texts_of(data)[0])

    def fit_predict(train, y, held):
        file = data / "peer-fasttext.txt"
        file.write_text(
            "\n".join(f"__label__{k} {t}" for k, t in zip(y, texts[train], strict=True))
        )
        model = train_supervised(str(file), wordNgrams=2, thread=2, verbose=0)
        names, shares = model.predict(texts[held].tolist(), k=-1)
        order = [np.argsort([int(name.removeprefix("__label__")) for name in row]) for row in names]
        found = np.array([row[place] for row, place in zip(shares, order, strict=True)], float)
        return found / found.sum(axis=1, keepdims=True)

    return judge_folds(data, fit_predict)


def autogluon(data):
    """`TabularPredictor` on the columns of texts, ten minutes a fold at most.

    `pip install autogluon.tabular[lightgbm,xgboost]`; its pandas is older than ours, so it takes an
    environment of its own.
    """
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    table = pd.DataFrame(dict(enumerate(texts_of(data)[1]))).add_prefix("text ")

    def fit_predict(train, y, held):
        predictor = TabularPredictor("label", eval_metric="log_loss", verbosity=0)
        predictor.fit(table.iloc[train].assign(label=y), time_limit=600)
        return predictor.predict_proba(table.iloc[held])[[0, 1, 2]].to_numpy()

    return judge_folds(data, fit_predict)


ALL = (tfidf, logreg, svm, word2vec, forest, xgb, lgbm, mlp, mean, fasttext, autogluon)
PEERS = {peer.__name__: peer for peer in ALL}


def main(*, name: str, data: Path, out: Path) -> None:
    """Run one peer on the folder `data`; its log loss, where it has one, goes to `out`."""
    warnings.simplefilter("ignore")  # of lbfgs, which does not converge in its 100 steps
    out.write_text(json.dumps(PEERS[name](data)))


if __name__ == "__main__":
    cyclopts.run(main)
