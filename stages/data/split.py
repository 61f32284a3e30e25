"""Rows to folds, made once for all models, and the leak firewall between train and test.

In: rows.parquet (`id`, `part`, the text columns, targets) and labels.json.
Out: folds.parquet in the order of the rows: `id`, `part`, `fold` (-1 outside the train part),
`group` and the targets; metrics, flat.

Rows belong to one group where their prompts (or texts) are the same once normalised, or
near-duplicates: the Jaccard similarity of their sets of character shingles (Broder, On the
resemblance and containment of documents, 1997; characters, since Chinese and Japanese have no
spaces) reaches the threshold. MinHash with locality-sensitive hashing (datasketch) only proposes
pairs, each is verified on the sets themselves: no false positive, and at a threshold of 0.8 with
128 permutations about two in a hundred of the pairs just at the threshold are missed, fewer above
it. Groups are the connected components over all parts together. A row without a prompt is known by
its answers instead: rows that have lost their common prompt often share an answer, which a model
could remember.

Folds are stratified by the likeliest class, and no group stands in two. Where a row can have
several classes, the groups are stratified iteratively, the rarest class first (Sechidis et al.
2011; the package iterative-stratification). A row of the dev or test part whose group holds a train
row is a leak: it is counted, never removed, and the stage fails above a limit.

    python -m stages.data.split --dataset demo
"""

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from stages.core.errors import InputError
from stages.core.folds import DEV, NO_FOLD, TEST, TRAIN
from stages.core.layout import Layout
from stages.core.matrices import Floats
from stages.core.params import Params, read_params
from stages.core.tables import (
    FOLD,
    GROUP,
    ID,
    PART,
    TARGET,
    join_turns,
    read_table,
    write_json,
    write_table,
)
from stages.core.tasks import Task, read_task
from stages.runtime.cli import run

log = logging.getLogger("verdict")

Ints: TypeAlias = npt.NDArray[np.int64]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.bool_]  # which rows have which class, `(n_rows, n_classes)`

NO_WORD = re.compile(r"[\W_]+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no information is lost modulo 2^64
BLOCK = 4096  # shingles sketched at once; bounds the memory that a prompt of 100 MB takes
SHOWN = 5  # leaks that the error names


@dataclass(frozen=True)
class Keys:
    """Which row has which normalised text: row `row[i]` has `texts[text[i]]`."""

    row: Ints
    text: Ints
    texts: list[str]


class SplitParams(Params):
    """How many folds, what counts as a near-duplicate, and how much leak is borne.

    `train_on_dev` makes the dev part, where there is one, a piece of the train part.
    """

    section = "split"

    n_folds: Annotated[int, Field(ge=2, le=100)] = 5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    near_duplicate_threshold: Annotated[float, Field(ge=0.5, le=0.95)] = 0.8  # Jaccard similarity
    permutations: Annotated[int, Field(ge=32, le=1024)] = 128  # of MinHash; more miss fewer pairs
    shingle_size: Annotated[int, Field(ge=1, le=50)] = 5  # characters of the normalised prompt
    max_leak_share: Annotated[float, Field(ge=0, le=1)] = 0.02  # of the dev and of the test rows
    train_on_dev: bool = False


def normalize(value: Any) -> str:
    """A prompt for comparison: turns joined, NFKC, case folded, all but letters and digits a space.

    A prompt of signs only ("???", an emoji) keeps them; an absent or blank one is "".
    """
    text = unicodedata.normalize("NFKC", join_turns(value)).casefold()
    return NO_WORD.sub(" ", text).strip() or text.strip()


def find_keys(rows: pd.DataFrame, columns: Sequence[str]) -> Keys:
    """What each row is known by: its prompt, the first of `columns`, or else its other texts."""
    found = []
    for row, (prompt, *others) in enumerate(zip(*(rows[name] for name in columns), strict=True)):
        text = normalize(prompt)
        texts = [text] if text else map(normalize, others)
        found += [(row, text) for text in texts if text]
    numbers, distinct = pd.factorize(np.array([text for _, text in found], dtype=object))
    return Keys(
        row=np.array([row for row, _ in found], dtype=np.int64),
        text=numbers.astype(np.int64),
        texts=distinct.tolist(),
    )


def shingles(text: str, size: int) -> Hashes:
    """The set of the text's substrings of `size` characters as sorted 64-bit hashes.

    A text that is shorter has one shingle, itself.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(codes) < size:
        codes = np.pad(codes, (0, size - len(codes)))
    hashes = np.zeros(len(codes) - size + 1, np.uint64)
    for start in range(size):  # a polynomial in the multiplier, all windows at once
        hashes = (hashes + codes[start : start + len(hashes)] + np.uint64(1)) * MULTIPLIER
    return np.unique(hashes)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard similarity of two sorted sets."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def near_duplicates(texts: Sequence[str], params: SplitParams) -> list[tuple[int, int]]:
    """Pairs of positions of near-duplicate texts, as many as connect all that belong together.

    A pair that earlier pairs connect already is not looked at: a thousand variants of a prompt have
    half a million pairs, and a thousand of them will do.
    """
    from datasketch import MinHash, MinHashLSH
    from scipy.cluster.hierarchy import DisjointSet

    threshold = params.near_duplicate_threshold
    # Pairs are verified, so the bands are chosen to miss few rather than to propose few.
    index = MinHashLSH(threshold, params.permutations, weights=(0.02, 0.98))
    empty = MinHash(params.permutations, seed=params.seed, hashfunc=int)
    sets: list[Hashes] = []
    joined = DisjointSet(range(len(texts)))
    pairs = []
    for position, text in enumerate(tqdm(texts, desc="split", unit="prompt", disable=None)):
        sets.append(shingles(text, params.shingle_size))
        sketch = empty.copy()
        high = (sets[-1] >> np.uint64(32)).tolist()
        for start in range(0, len(high), BLOCK):
            sketch.update_batch(high[start : start + BLOCK])
        for other in sorted(index.query(sketch)):
            if joined.connected(other, position):
                continue
            if jaccard(sets[other], sets[position]) >= threshold:
                joined.merge(other, position)
                pairs.append((other, position))
        index.insert(position, sketch)
    return pairs


def group_rows(n_rows: int, keys: Keys, pairs: Sequence[tuple[int, int]]) -> Ints:
    """The group of each row, numbered by first row: rows tied by common or paired texts."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = n_rows + np.array(pairs, dtype=np.int64).reshape(-1, 2)  # rows come first, then texts
    one, other = np.append(keys.row, ends[:, 0]), np.append(n_rows + keys.text, ends[:, 1])
    size = n_rows + len(keys.texts)
    graph = coo_matrix((np.ones(len(one)), (one, other)), shape=(size, size))
    _, labels = connected_components(graph, directed=False)
    groups: Ints = pd.factorize(labels[:n_rows])[0].astype(np.int64)
    return groups


def make_folds(task: Task, targets: Floats, groups: Ints, params: SplitParams) -> Ints:
    """The fold of each train row, stratified by class, no group in two folds.

    Args:
        task: Tells which classes a row has, by which it is stratified.
        targets: `(n_rows, n_classes)`.
        groups: `(n_rows,)`.
        params: Number of folds and seed.

    Raises:
        InputError: A class has a share in fewer groups than there are folds, so that a fold would
            be fitted without it. Of some tasks a class may have none at all.
    """
    has = task.has_classes(targets)
    found = {
        name: len(np.unique(groups[y]))
        for name, y in zip(task.classes, (targets > 0 if task.exclusive else has).T, strict=True)
    }
    few = {name: n for name, n in found.items() if n < params.n_folds}
    if task.may_lack_classes and (none := [name for name, n in few.items() if not n]):
        log.warning("split: no row has any share of %s: models learn that it never is", none)
        few = {name: n for name, n in few.items() if n}
    if few:
        raise InputError.listing(
            f"rows: too few to make the folds; expected at least n_folds = {params.n_folds} groups "
            "of train rows in each class: make fewer folds, or join the class with another or "
            "leave it out",
            [f"{TARGET}{name}: got {n} groups of rows" for name, n in few.items()],
        )
    folds = np.full(len(groups), NO_FOLD)
    for fold, (_, held) in enumerate(
        (_by_class if task.exclusive else _by_classes)(has, groups, params)
    ):
        folds[held] = fold
    return folds


def _by_class(has: Rows, groups: Ints, params: SplitParams) -> Iterator[tuple[Ints, Ints]]:
    """(fitted, held) rows of each fold, where each row has one class."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(params.n_folds, shuffle=True, random_state=params.seed)
    yield from splitter.split(groups, has.argmax(axis=1), groups)


def _by_classes(has: Rows, groups: Ints, params: SplitParams) -> Iterator[tuple[Ints, Ints]]:
    """(fitted, held) rows of each fold, where a row can have several classes.

    Groups are split; a group has the classes of all its rows.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    numbers, member = np.unique(groups, return_inverse=True)
    of_group = np.zeros((len(numbers), has.shape[1]), bool)
    np.logical_or.at(of_group, member, has)
    splitter = MultilabelStratifiedKFold(params.n_folds, shuffle=True, random_state=params.seed)
    for fitted, held in splitter.split(of_group, of_group):
        yield np.flatnonzero(np.isin(member, fitted)), np.flatnonzero(np.isin(member, held))


def find_leaks(part: npt.NDArray[Any], groups: Ints, of: str) -> dict[int, int]:
    """Rows of the part `of` whose group holds a train row.

    Position of each -> of the first such train row.
    """
    train, others = np.flatnonzero(part == TRAIN), np.flatnonzero(part == of)
    first = dict(zip(groups[train][::-1].tolist(), train[::-1].tolist(), strict=True))
    return {row: first[group] for row in others.tolist() if (group := int(groups[row])) in first}


def check_leaks(rows: pd.DataFrame, leaks: dict[int, int], limit: float, of: str) -> None:
    """Refuse rows of the part `of` that the train part gives away.

    Raises:
        InputError: More than `limit` of them leak; names the first pairs.
    """
    n = int((rows[PART] == of).sum())
    if len(leaks) <= limit * n:
        return
    ids = rows[ID].to_numpy()
    shown = [f"{ids[row]} ({of}) like {ids[train]} (train)" for row, train in leaks.items()]
    raise InputError.listing(
        f"max_leak_share: the prompts or texts of {len(leaks)} {of} rows stand in train too, "
        f"got a share of {len(leaks) / n:.4f}; expected at most {limit}. The first are",
        shown[:SHOWN],
    )


def check_rows(rows: pd.DataFrame, targets: list[str]) -> None:
    """Refuse rows that can be neither split nor learned from.

    Raises:
        InputError: There is an unknown part, no train row, or a train or dev row without target.
    """
    train = rows[PART] == TRAIN
    labelled = rows[PART].isin([TRAIN, DEV])
    unlabelled = rows.loc[labelled & rows[targets].isna().any(axis=1), ID].tolist()
    faults = []
    if strange := sorted(set(rows[PART].astype(str)) - {TRAIN, DEV, TEST}):
        faults.append(f"{PART}: got {strange}; expected {TRAIN}, {DEV} or {TEST}")
    if not train.any():
        faults.append(f"{PART}: got no {TRAIN} row; expected at least one")
    if unlabelled:
        faults.append(
            f"{len(unlabelled)} {TRAIN} or {DEV} rows lack a target, the first are "
            f"{unlabelled[:SHOWN]}; expected numbers in {targets}"
        )
    if faults:
        raise InputError.listing("rows: cannot be split", faults)


def count_between_folds(keys: Keys, folds: Ints, pairs: Sequence[tuple[int, int]]) -> int:
    """Texts, and near-duplicate pairs, that stand in several folds: seen from the folds alone."""
    train = folds[keys.row] != NO_FOLD
    fold_of_text = pd.Series(folds[keys.row][train]).groupby(keys.text[train]).agg(["min", "max"])
    apart = int((fold_of_text["min"] != fold_of_text["max"]).sum())
    fold = fold_of_text["min"].to_dict()
    return apart + len([1 for a, b in pairs if a in fold and b in fold and fold[a] != fold[b]])


def measure(
    folds: pd.DataFrame,
    keys: Keys,
    pairs: Sequence[tuple[int, int]],
    leaks: dict[str, dict[int, int]],
) -> dict[str, float]:
    """What split.json says; of the dev part only where there is one."""
    part = folds[PART].to_numpy()
    train = part == TRAIN
    known = np.isin(keys.text, keys.text[train[keys.row]])
    exact = pd.Series(group_rows(len(folds), keys, []))
    sizes = folds.loc[train, FOLD].value_counts()

    def leaking(of: str) -> dict[str, float]:
        return {
            "exact_leaks": len(np.unique(keys.row[(part == of)[keys.row] & known])),
            "leaks": len(leaks[of]),
            "leak_share": len(leaks[of]) / max(int((part == of).sum()), 1),
        }

    of_dev: dict[str, float] = {}
    if (part == DEV).any():
        of_dev = {f"dev_{name}": value for name, value in leaking(DEV).items()}
        of_dev["rows_dev"] = int((part == DEV).sum())
    return {
        "rows_train": int(train.sum()),
        "rows_test": int((part == TEST).sum()),
        "groups": int(folds[GROUP].nunique()),
        "largest_group": int(folds[GROUP].value_counts().max()),
        "exact_duplicates_in_train": int(train.sum()) - int(exact[train].nunique()),
        "duplicates_in_train": int(train.sum()) - int(folds.loc[train, GROUP].nunique()),
        **leaking(TEST),
        "between_folds": count_between_folds(keys, folds[FOLD].to_numpy(), pairs),
        "smallest_fold": int(sizes.min()),
        "largest_fold": int(sizes.max()),
        "class_share_spread": class_share_spread(folds.loc[train]),
        **of_dev,
    }


def class_share_spread(train: pd.DataFrame) -> float:
    """The largest difference between two folds in the mean target of a class."""
    targets = [name for name in train if str(name).startswith(TARGET)]
    shares = train.groupby(FOLD)[targets].mean()
    return float((shares.max() - shares.min()).max())


def split_rows(
    rows: pd.DataFrame, task: Task, params: SplitParams
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The folds of the rows, and the metrics.

    Raises:
        InputError: The rows cannot be split, or train gives away too much of another part.
    """
    targets = [TARGET + name for name in task.classes]
    check_rows(rows, targets)
    if params.train_on_dev:
        rows = rows.assign(**{PART: rows[PART].replace(DEV, TRAIN)})
    keys = find_keys(rows, task.text_columns)
    pairs = near_duplicates(keys.texts, params)
    group = group_rows(len(rows), keys, pairs)
    leaks = {}
    for part in (DEV, TEST):
        leaks[part] = find_leaks(rows[PART].to_numpy(), group, part)
        check_leaks(rows, leaks[part], params.max_leak_share, part)

    train = (rows[PART] == TRAIN).to_numpy()
    fold = np.full(len(rows), NO_FOLD)
    fold[train] = make_folds(task, rows.loc[train, targets].to_numpy(), group[train], params)
    folds = rows[[ID, PART]].copy()
    folds[FOLD], folds[GROUP] = fold.astype(np.int8), group
    folds[targets] = rows[targets]
    return folds, measure(folds, keys, pairs, leaks)


def main(*, dataset: str) -> None:
    """Split the train part into folds."""
    layout = Layout(dataset)
    params = read_params(SplitParams, layout)
    task = read_task(layout.labels)
    targets = [TARGET + name for name in task.classes]
    frame = read_table(layout.rows, [ID, PART, *task.text_columns, *targets])
    log.info("split: %d rows in, grouped by %s", len(frame), task.text_columns[0])
    table, measured = split_rows(frame, task, params)
    log.info("split: %s", ", ".join(f"{value:.6g} {name}" for name, value in measured.items()))
    write_table(table, layout.folds)
    write_json(measured, layout.split)


if __name__ == "__main__":
    run(main)
