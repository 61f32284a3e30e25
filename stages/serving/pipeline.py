"""The trained pipeline, put together from what its stages stored: texts in, probabilities out.

Each step is the stage's own code; nothing is fitted, and no row depends on another. Members of the
ensemble without a weight are left out, and so are features that none of the others takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from ruamel.yaml import YAML

from stages.core.blocks import column_blocks
from stages.core.errors import InputError
from stages.core.layout import ENSEMBLE, Layout
from stages.core.matrices import Block, Floats
from stages.core.params import Params, check_params, read_params
from stages.core.tables import PREDICTION, read_json
from stages.core.tasks import Task, read_task
from stages.data.augment import AugmentParams
from stages.data.clean import CleanParams, clean_texts, make_normalizer
from stages.data.comparisons import put_into_words
from stages.data.readers.rows import Row
from stages.evaluation.cascade import CascadeParams, confidence
from stages.evaluation.ensemble import Blend
from stages.evaluation.ensemble import load as load_blend
from stages.evaluation.submit import LABEL, LabelParams, SubmitParams, labels_of, read_thresholds
from stages.features import style, tfidf
from stages.features.tfidf import Latent, TfidfParams, Vocabulary
from stages.features.word2vec import Vectors
from stages.runtime import parallel
from stages.serving._members import Member, Sets, Transformer, load_member, sets_of
from stages.transformer.embed import Embedder, EmbedParams
from stages.transformer.network.params import Inference
from stages.transformer.training.classifier import TUNED

ROWS = 250  # rows whose words are counted by one process
# what makes a feature set of new rows: files in the folders of feature sets
STATE = {
    "tfidf": (("tfidf", "names.json"),),
    "lsa": (("tfidf", "names.json"), ("lsa", "svd.state.npz")),
    "word2vec": (("word2vec", "vectors.state.npz"),),
    "style": (),
    "embed": (),
}


@dataclass(frozen=True)
class Features:
    """What makes the feature sets of new rows; None for what no member takes."""

    task: Task
    clean: CleanParams
    ngrams: TfidfParams
    vocabulary: Vocabulary | None
    latent: Latent | None
    vectors: Vectors | None
    embedder: Embedder | None

    @classmethod
    def load(
        cls,
        layout: Layout,
        task: Task,
        clean: CleanParams,
        ngrams: TfidfParams,
        embed: EmbedParams,
        needed: set[str],
    ) -> "Features":
        """Read what the `needed` feature sets take."""
        make_normalizer(clean)  # missing NLTK data shall show here, not in a worker
        return cls(
            task,
            clean,
            ngrams,
            Vocabulary.load(layout.features("tfidf")) if needed & {"tfidf", "lsa"} else None,
            Latent.load(layout.features("lsa")) if "lsa" in needed else None,
            Vectors.load(layout.features("word2vec")) if "word2vec" in needed else None,
            Embedder.load(embed) if "embed" in needed and embed.backbone else None,
        )

    def __call__(self, texts: pd.DataFrame) -> Sets:
        """The feature sets of `texts`."""
        pieces = [texts.iloc[start : start + ROWS] for start in range(0, len(texts), ROWS)]
        read = partial(read_texts, task=self.task, clean=self.clean)
        words, styles = zip(*parallel.run(read, pieces, processes=len(pieces) > 1), strict=True)
        cleaned = pd.concat(words, ignore_index=True)
        sets: dict[str, dict[str, Block]] = {
            "style": column_blocks(pd.concat(styles, ignore_index=True)),
            "embed": {},
        }
        if self.vocabulary:
            sets["tfidf"] = tfidf.apply(cleaned, self.vocabulary, self.ngrams)
        if self.latent:
            sets["lsa"] = self.task.relate(self.latent.apply(sets["tfidf"]))
        if self.vectors:
            sets["word2vec"] = self.task.relate(self.vectors.apply(cleaned))
        if self.embedder:
            sets["embed"] = self.task.relate(self.embedder(texts))
        return sets


def read_texts(
    texts: pd.DataFrame, task: Task, clean: CleanParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cleaned tokens and style features: what takes the texts word by word."""
    return clean_texts(texts, clean), style.apply(texts, task.text_columns)


@dataclass(frozen=True)
class Labels:
    """How the label of a row is written: as the stage `submit` does."""

    params: LabelParams
    thresholds: Floats


@dataclass(frozen=True)
class Cheap:
    """The cheap model of a cascade, and the confidence from which it answers alone."""

    features: Features | None
    member: Member
    threshold: float

    def __call__(self, task: Task, texts: pd.DataFrame) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Its probabilities `(n_rows, n_classes)`, and the rows that it is not sure of."""
        found = self.member.predict(texts, self.features(texts) if self.features else {})
        return found, confidence(task, found) < self.threshold


@dataclass(frozen=True)
class Pipeline:
    """All that turns texts into the ensemble's probabilities, or those of a cascade."""

    task: Task
    comparisons: bool
    features: Features | None
    members: Mapping[str, Member]
    blend: Blend
    labels: Labels | None
    cheap: Cheap | None

    @property
    def columns(self) -> list[str]:
        """The names of the columns of `predict`."""
        labels = [] if self.labels is None else [LABEL]
        return [*(PREDICTION + name for name in self.task.classes), *labels]

    @property
    def has_networks(self) -> bool:
        """Whether pretrained networks are among the members or make features."""
        cheap = [self.cheap] if self.cheap else []
        features = [self.features, *(each.features for each in cheap)]
        members = [*self.members.values(), *(each.member for each in cheap)]
        embeds = any(each is not None and each.embedder is not None for each in features)
        return embeds or any(isinstance(each, Transformer) for each in members)

    def by_member(self, texts: pd.DataFrame) -> dict[str, Floats]:
        """The probabilities of each member, `(n_rows, n_classes)`."""
        texts = self._worded(texts)
        sets = self.features(texts) if self.features else {}
        return {name: member.predict(texts, sets) for name, member in self.members.items()}

    def probabilities(self, texts: pd.DataFrame) -> Floats:
        """The probabilities of the ensemble, or of the cascade, `(n_rows, n_classes)`."""
        if self.cheap is None:
            return self.blend(np.stack(list(self.by_member(texts).values())))
        values, unsure = self.cheap(self.task, self._worded(texts))
        if unsure.any():
            rest = self.by_member(texts[unsure])
            values[unsure] = self.blend(np.stack(list(rest.values())))
        return values

    def _worded(self, texts: pd.DataFrame) -> pd.DataFrame:
        """The texts as the stage `augment` hands them on."""
        return put_into_words(texts, self.task.text_columns) if self.comparisons else texts

    def predict(self, texts: pd.DataFrame) -> pd.DataFrame:
        """Probabilities `p_<class>` of rows, and their labels where the dataset submits labels.

        Args:
            texts: The text columns of the task, as in rows.parquet.
        """
        if not len(texts):
            return pd.DataFrame(columns=self.columns)
        values = self.probabilities(texts)
        frame = pd.DataFrame(values, columns=self.columns[: values.shape[1]], index=texts.index)
        if self.labels is not None:
            frame[LABEL] = labels_of(values, self.labels.thresholds, self.task, self.labels.params)
        return frame

    @classmethod
    def load(
        cls, dataset: str, root: Path, *, cascade: bool = False, how: Inference = TUNED
    ) -> "Pipeline":
        """Put together the pipeline of a dataset, from the repository or a copy of its `files`.

        With `cascade`, the cheap model of the section `cascade` answers the rows that it is sure
        of; what it takes must be trained too. `how` says how tuned networks predict.

        Raises:
            InputError: It is not trained, or not with the params that stand there now.
        """
        layout = Layout(dataset, root)
        augment = read_params(AugmentParams, layout)
        clean = read_params(CleanParams, layout)
        ngrams = read_params(TfidfParams, layout)
        embed = read_params(EmbedParams, layout)
        submit = read_params(SubmitParams, layout)
        needed = files(layout)
        require_files(dataset, needed)
        asked = read_params(CascadeParams, layout) if cascade else None
        read: list[Params] = [augment, clean, ngrams, embed, *([asked] if asked else [])]
        require_built(layout, needed, read)
        task = read_task(layout.labels)
        names, blend = load_blend(layout.weights, task)
        labels = None
        if submit.labels is not None:
            labels = Labels(submit.labels, read_thresholds(layout.thresholds(ENSEMBLE), task))

        def features(members: Iterable[str]) -> Features | None:
            wanted = sets_of(layout.model(name) for name in members)
            return Features.load(layout, task, clean, ngrams, embed, wanted) if wanted else None

        cheap = None
        if asked:
            threshold = read_threshold(layout.cascade)
            member = load_member(layout.model(asked.cheap), task, how)
            cheap = Cheap(features([asked.cheap]), member, threshold)
        return cls(
            task,
            augment.comparisons,
            features(names),
            {name: load_member(layout.model(name), task, how) for name in names},
            blend,
            labels,
            cheap,
        )


def read_threshold(path: Path) -> float:
    """The threshold that the stage `cascade` wrote.

    Raises:
        InputError: It wrote none: the cheap model or the ensemble predicted no row out of fold.
    """
    found = read_json(path)
    if "threshold" not in found:
        raise InputError(
            f"{path}: no threshold, since the cheap model or the ensemble predicted no row out of "
            f"fold, got {found}; expected another cascade.cheap"
        )
    return float(found["threshold"])


def as_frame(rows: list[Row], task: Task) -> pd.DataFrame:
    """The text columns of rows, as in rows.parquet."""
    return pd.DataFrame([row.texts for row in rows], columns=list(task.text_columns))


def files(layout: Layout) -> list[Path]:
    """What `Pipeline.load` reads, files and folders, as far as they are known.

    Which members there are stands in the weights.
    """
    found = [layout.params, layout.labels, layout.weights]
    if read_params(SubmitParams, layout).labels is not None:
        found.append(layout.thresholds(ENSEMBLE))
    if all(path.exists() for path in found):
        names, _ = load_blend(layout.weights, read_task(layout.labels))
        found += [layout.model(name) for name in names]
        needed = sets_of(layout.model(name) for name in names)
        state = {layout.features(name) / file for each in needed for name, file in STATE[each]}
        found += sorted(state)
    return found


def require_files(dataset: str, needed: Iterable[Path]) -> None:
    """Refuse a dataset that is not trained."""
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise InputError.listing(
            f"{dataset}: not trained here, got no such files; expected what `dvc exp run "
            f"-S 'datasets=[{dataset}]'` makes (or `dvc pull`, where it ran elsewhere)",
            missing,
        )


def require_built(layout: Layout, needed: Iterable[Path], read: Iterable[Params]) -> None:
    """Refuse params that are not those of the last build, and a build that is not whole.

    As far as dvc.lock tells: it knows what each stage made, and of what.
    """
    lock = layout.root / "dvc.lock"
    if not lock.exists():
        return
    stages = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]
    file = layout.params.relative_to(layout.root)
    changed = []
    for params in read:
        section = params.section
        built = stages.get(f"{section}@{layout.dataset}", {}).get("params", {})
        given = built.get(file.as_posix(), {}).get(section)
        if given is not None and check_params(type(params), given, lock, section) != params:
            changed.append(section)
    run = f"run `dvc exp run -S 'datasets=[{layout.dataset}]'`"
    if changed:
        raise InputError(
            f"{layout.params}: got other params in {changed} than the models were trained with; "
            f"expected the same: {run}, or undo the change"
        )
    relative = [path.relative_to(layout.root) for path in needed]
    if behind := stages_behind(stages, relative):
        raise InputError(
            f"{lock}: got {behind} made of other files than are there now; expected a whole build: "
            f"{run}"
        )


def stages_behind(stages: Mapping[str, Any], paths: Iterable[Path]) -> list[str]:
    """Of the stages that made `paths`, those whose inputs were made again since."""
    made = {out["path"]: out.get("md5") for s in stages.values() for out in s.get("outs", [])}
    within = {str(place) for path in paths for place in (path, *path.parents)}
    return [
        name
        for name, entry in stages.items()
        if any(out["path"] in within for out in entry.get("outs", []))
        and any(made.get(d["path"], d.get("md5")) != d.get("md5") for d in entry.get("deps", []))
    ]
