"""Random forest on word2vec and style features (Breiman 2001).

In: folds and feature sets. Out: a model for each fold, out-of-fold and test predictions.
scikit-learn grows one forest for all classes on their 0/1 targets: the variance that it lowers is
Gini's impurity, and soft targets and rows with several classes need no forest of their own. A leaf
is a vote of few rows, so its class shares are drawn to those of the whole sample (m-estimate:
Cestnik 1990), and no class gets a zero. Each forest grows on one thread, the folds side by side.

    python -m stages.models.forest --dataset demo
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors.numpy import load_file, save_file

from stages.core.matrices import Floats, Matrix
from stages.core.tasks import Task
from stages.models.fitting.design import SourceParams
from stages.models.fitting.model import Model
from stages.models.fitting.sample import Sample
from stages.models.fitting.search import ModelParams, Share
from stages.models.fitting.train import training_stage
from stages.runtime.cli import run


class ForestParams(ModelParams):
    """Section `forest`: scikit-learn's names and meanings, but for `trees` and `smoothing`.

    `max_features` and `max_samples` are shares; both orders of a pair count as rows, and a tree
    grows on `max_rows` of them at most. `smoothing` is how many rows the class shares of the whole
    sample weigh in a leaf.
    """

    trees: Annotated[int, Field(ge=1)] = 100
    max_features: Share = 0.05
    max_samples: Share = 0.3
    max_rows: Annotated[int, Field(ge=1)] = 10_000
    min_samples_leaf: Annotated[int, Field(ge=1)] = 5
    smoothing: Annotated[float, Field(gt=0)] = 0.1
    word2vec: SourceParams = SourceParams()
    style: SourceParams = SourceParams()


@dataclass(frozen=True)
class Forest:
    """Trees as arrays, one behind the other: n_splits splits and n_leaves leaves.

    A row goes `left` where its `feature` is at most the `threshold`, else `right`, `(n_splits,)`
    each. A number from 0 is a split, a negative one the leaf `~number` of `leaves`,
    `(n_leaves, n_classes)`. `roots` are such numbers too, `(n_trees,)`.
    """

    roots: npt.NDArray[np.int32]
    feature: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float64]
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    leaves: npt.NDArray[np.float32]

    def predict(self, X: Matrix) -> Floats:
        """Probabilities `(n_rows, n_classes)`: the mean over the trees."""
        total = np.zeros((len(X), self.leaves.shape[1]))
        for root in self.roots:
            total += self.leaves[~self._descend(root, X)]
        return total / len(self.roots)

    def _descend(self, root: np.int32, X: Matrix) -> npt.NDArray[np.int32]:
        """The leaf in which each row ends, `(n_rows,)`."""
        at = np.full(len(X), root)
        while len(rows := np.flatnonzero(at >= 0)):
            split = at[rows]
            left = X[rows, self.feature[split]] <= self.threshold[split]
            at[rows] = np.where(left, self.left[split], self.right[split])
        return at

    def save(self, stem: Path) -> None:
        """Write `<stem>.safetensors`."""
        save_file({f.name: getattr(self, f.name) for f in fields(self)}, f"{stem}.safetensors")

    @classmethod
    def load(cls, stem: Path, task: Task) -> "Forest":  # noqa: ARG003 - its leaves tell
        """Read what `save` wrote."""
        return cls(**load_file(f"{stem}.safetensors"))


def fit(sample: Sample, params: ForestParams, seed: int) -> Forest:
    """Grow the trees on bootstrap samples."""
    from sklearn.ensemble import RandomForestRegressor

    sample = sample.both_orders()
    targets = sample.targets
    grown = RandomForestRegressor(
        params.trees,
        max_features=params.max_features,
        max_samples=min(params.max_samples, params.max_rows / len(targets)),
        min_samples_leaf=params.min_samples_leaf,
        random_state=seed,
        n_jobs=1,
    ).fit(sample.X, targets if sample.n_classes > 1 else targets.ravel(), sample.weight)
    # As if each class had half a row more: one without rows stays possible
    rows = sample.weight @ targets + 0.5
    shares = rows / (sample.weight.sum() + 0.5 * sample.n_classes)
    return _flatten([tree.tree_ for tree in grown.estimators_], shares, params.smoothing)


def _flatten(trees: list[Any], shares: Floats, smoothing: float) -> Forest:
    """scikit-learn's trees as one set of arrays, the leaves drawn to `shares`, `(n_classes,)`."""

    def gather(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    sizes = [tree.node_count for tree in trees]
    first = np.cumsum(sizes) - sizes  # the node that is a tree's root
    is_leaf = gather("children_left") < 0
    leaf, split = is_leaf.cumsum(dtype=np.int32), (~is_leaf).cumsum(dtype=np.int32)
    number = np.where(is_leaf, ~(leaf - 1), split - 1)  # as in Forest

    def below(name: str) -> npt.NDArray[np.int32]:
        child = gather(name) + np.repeat(first, sizes)
        numbers: npt.NDArray[np.int32] = number[child[~is_leaf]]
        return numbers

    rows = gather("weighted_n_node_samples")[is_leaf, None]
    value = gather("value")[is_leaf, :, 0]
    leaves = (value * rows + shares * smoothing) / (rows + smoothing)
    return Forest(
        roots=number[first],
        feature=gather("feature")[~is_leaf].astype(np.int32),
        threshold=gather("threshold")[~is_leaf],
        left=below("children_left"),
        right=below("children_right"),
        leaves=leaves.astype(np.float32),
    )


MODEL = Model("forest", ForestParams, fit, Forest.load)
main = training_stage(MODEL)

if __name__ == "__main__":
    run(main)
