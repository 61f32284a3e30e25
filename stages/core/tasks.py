"""The kinds of task: class names, text columns, losses and the swap of A and B.

This module knows what differs by task in a model. A text has one class (`single_label`)
or several at once (`multi_label`: a probability for each class on its own); of two answers to a
prompt one is better, or none (`preference`).

A preference is symmetric: exchanging the two answers must exchange the probabilities of `a` and
`b`. Linear and boosted models get there through *odd* features, which change sign under the swap (a
- b), and *even* ones, which do not (|a - b|, a + b, the prompt): they see every training row in
both orders and average both orders when they predict.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.core.errors import InputError
from stages.core.matrices import Block, Design, Floats, Matrix, cosine, hstack, is_sparse
from stages.core.tables import read_json

Part: TypeAlias = Literal["difference", "magnitude", "sum", "prompt", "text"]

PAIR = "pair"  # key of even features of both answers at once, such as their cosine
TEXT = "text"
SMALLEST = 1e-15  # probabilities are clipped to this before their logarithm is taken
BOUND = 1e-6  # the same where they become scores: one member's 0 must not silence the others


class Task:
    """A task with its ordered classes; as it stands one class a row, and no swap.

    Targets and predictions are `(n_rows, n_classes)` in the order of the classes. Where the classes
    are `exclusive`, rows sum to 1; else each column is a probability on its own. `parts` are what
    `design` can build; the first is built where the params name none. Only a
    `symmetric` task has a swap; the others are their own exchange.
    """

    kind: ClassVar[str]
    text_columns: ClassVar[tuple[str, ...]] = (TEXT,)
    parts: ClassVar[tuple[Part, ...]] = ("text",)
    symmetric: ClassVar[bool] = False
    exclusive: ClassVar[bool] = True
    may_lack_classes: ClassVar[bool] = False  # whether no train row need have some class

    def __init__(self, classes: tuple[str, ...]) -> None:
        if not classes or len(set(classes)) < len(classes):
            raise InputError(
                f"classes: got {list(classes)}; expected at least one, and each name once"
            )
        self.classes = classes

    def has_classes(self, targets: Floats) -> npt.NDArray[np.bool_]:
        """Which classes rows of (soft) targets `(n_rows, n_classes)` have: the likeliest one."""
        likeliest: npt.NDArray[np.bool_] = np.eye(len(self.classes), dtype=bool)[
            targets.argmax(axis=1)
        ]
        return likeliest

    def swap_classes(self, values: Floats) -> Floats:
        """Targets or probabilities `(n_rows, n_classes)` of the exchanged rows."""
        return values

    def swap_class_numbers(self, y: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Class numbers of the exchanged rows."""
        return y

    def swap_blocks(self, blocks: Mapping[str, Block]) -> dict[str, Block]:
        """Features of the exchanged rows."""
        return dict(blocks)

    def swap_design(self, X: Matrix, n_odd: int) -> Matrix:  # noqa: ARG002 - no odd columns here
        """The design matrix of the exchanged rows."""
        return X

    def scores(self, utility: Floats, tie: Floats) -> Floats:  # noqa: ARG002
        """Scores `(n_rows, n_classes)` of a symmetric model: of symmetric tasks only."""
        raise TypeError(f"{self.kind} is not symmetric")

    def slopes(self, by_scores: Floats) -> tuple[Floats, Floats]:  # noqa: ARG002
        """Slopes of a loss by utility and by tie: of symmetric tasks only."""
        raise TypeError(f"{self.kind} is not symmetric")

    def relate(self, vectors: Mapping[str, Floats]) -> dict[str, Block]:
        """Blocks of text vectors `(n_rows, size)`."""
        return {
            column: Block(values, tuple(str(i) for i in range(values.shape[1])))
            for column, values in vectors.items()
        }

    def keys(self, parts: tuple[Part, ...]) -> tuple[str, ...]:
        """Keys of the blocks that `design` takes for these parts.

        Raises:
            InputError: The task has no such part.
        """
        if not set(parts) <= set(self.parts):
            raise InputError(
                f"parts: got {list(parts)}; expected some of {list(self.parts)} for {self.kind}"
            )
        return self.text_columns

    def design(
        self,
        blocks: Mapping[str, Block],
        parts: tuple[Part, ...],  # noqa: ARG002 - a text has one part
    ) -> Design:
        """The features of the text as they are; none of them is odd."""
        return Design(blocks[TEXT].X, n_odd=0)

    def link(self, scores: Floats) -> Floats:
        """Probabilities `(n_rows, n_classes)` from scores (log-odds) of that shape."""
        from scipy.special import softmax

        return np.asarray(softmax(scores, axis=1))

    def row_losses(self, targets: Floats, probabilities: Floats) -> Floats:
        """Log loss of each row, `(n_rows,)`, under (soft) targets."""
        losses: Floats = -(targets * np.log(np.clip(probabilities, SMALLEST, 1))).sum(axis=1)
        return losses

    def loss_slopes(self, targets: Floats, probabilities: Floats) -> Floats:
        """Slopes of `row_losses` by the probabilities, `(n_rows, n_classes)`."""
        return -(targets / np.clip(probabilities, SMALLEST, None))

    def unlink(self, probabilities: Floats) -> Floats:
        """What `link` makes these probabilities of, along the last axis; finite also for a 0."""
        return np.log(np.clip(probabilities, BOUND, 1))

    def score_slopes(self, targets: Floats, probabilities: Floats) -> Floats:
        """Slopes of `row_losses` by the scores behind the probabilities, `(n_rows, n_classes)`."""
        return probabilities - targets

    def sharpen(self, probabilities: Floats, temperature: float) -> Floats:
        """Probabilities raised to 1 / `temperature`, made probabilities again."""
        raised = probabilities ** (1 / temperature)
        sharpened: Floats = raised / raised.sum(axis=1, keepdims=True)
        return sharpened

    def fault(self, probabilities: Floats) -> str | None:
        """What is wrong with rows that should be probabilities, if anything is."""
        if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-6):
            return "rows that do not sum to 1"
        return None


class SingleLabel(Task):
    """Which one of the classes a text belongs to."""

    kind = "single_label"


class MultiLabel(Task):
    """Which of the classes a text belongs to: none, one or several; each is a question of its own.

    Its log loss is the mean over the classes of the binary log losses.
    """

    kind = "multi_label"
    exclusive = False

    def has_classes(self, targets: Floats) -> npt.NDArray[np.bool_]:
        """Which classes rows of (soft) targets have: all of one half and more."""
        return targets >= 0.5

    def link(self, scores: Floats) -> Floats:
        """Probabilities `(n_rows, n_classes)` from scores (log-odds) of that shape."""
        from scipy.special import expit

        return np.asarray(expit(scores))

    def row_losses(self, targets: Floats, probabilities: Floats) -> Floats:
        """Log loss of each row, `(n_rows,)`: the mean over the classes."""
        p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
        losses: Floats = -(targets * np.log(p) + (1 - targets) * np.log1p(-p)).mean(axis=1)
        return losses

    def loss_slopes(self, targets: Floats, probabilities: Floats) -> Floats:
        """Slopes of `row_losses` by the probabilities, `(n_rows, n_classes)`."""
        p = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
        return ((1 - targets) / (1 - p) - targets / p) / len(self.classes)

    def unlink(self, probabilities: Floats) -> Floats:
        """The log-odds of these probabilities; finite also for 0 and 1."""
        p = np.clip(probabilities, BOUND, 1 - BOUND)
        return np.log(p) - np.log1p(-p)

    def score_slopes(self, targets: Floats, probabilities: Floats) -> Floats:
        """Slopes of `row_losses` by the log-odds, `(n_rows, n_classes)`."""
        return (probabilities - targets) / len(self.classes)

    def sharpen(self, probabilities: Floats, temperature: float) -> Floats:
        """Log-odds divided by `temperature`."""
        yes, no = probabilities ** (1 / temperature), (1 - probabilities) ** (1 / temperature)
        sharpened: Floats = yes / (yes + no)
        return sharpened

    def fault(self, probabilities: Floats) -> str | None:
        """What is wrong with values that should be probabilities, if anything is."""
        if ((probabilities < 0) | (probabilities > 1)).any():
            return "values outside 0 to 1"
        return None


class Preference(Task):
    """Which of two answers a person prefers: a, b, or a tie."""

    kind = "preference"
    text_columns = ("prompt", "response_a", "response_b")
    parts = ("difference", "magnitude", "sum", "prompt")
    symmetric = True
    may_lack_classes = True  # some judges never call a tie
    swapped: ClassVar[Mapping[str, str]] = {"response_a": "response_b", "response_b": "response_a"}

    def __init__(self, classes: tuple[str, ...] = ("a", "b", "tie")) -> None:
        if classes != ("a", "b", "tie"):
            raise InputError(
                f"classes of a preference: got {list(classes)}; expected ['a', 'b', 'tie']"
            )
        super().__init__(classes)

    def swap_classes(self, values: Floats) -> Floats:
        """Exchange the columns of a and b in targets or probabilities `(n_rows, 3)`."""
        return values[:, [1, 0, 2]]

    def scores(self, utility: Floats, tie: Floats) -> Floats:
        """Scores `(n_rows, 3)` of a symmetric model: u for a, -u for b, t for the tie."""
        return np.column_stack([utility, -utility, tie])

    def slopes(self, by_scores: Floats) -> tuple[Floats, Floats]:
        """Slopes of a loss by utility and by tie, from its slopes by `scores`, `(n_rows, 3)`."""
        return by_scores[:, 0] - by_scores[:, 1], by_scores[:, 2]

    def swap_class_numbers(self, y: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Exchange the class numbers of a and b."""
        return np.array([1, 0, 2])[y]

    def swap_blocks(self, blocks: Mapping[str, Block]) -> dict[str, Block]:
        """The features as they would be with A and B exchanged in the raw rows."""
        return {name: blocks[self.swapped.get(name, name)] for name in blocks}

    def relate(self, vectors: Mapping[str, Floats]) -> dict[str, Block]:
        """Blocks of text vectors `(n_rows, size)`, with the cosines of a row's texts."""
        names = tuple(str(i) for i in range(vectors["prompt"].shape[1]))
        blocks = {
            column: Block(
                np.column_stack([vectors[column], cosine(vectors["prompt"], vectors[column])]),
                (*names, "prompt_cosine"),
            )
            for column in ("response_a", "response_b")
        }
        both = cosine(vectors["response_a"], vectors["response_b"])
        return {
            "prompt": Block(vectors["prompt"], names),
            **blocks,
            PAIR: Block(both[:, None], ("cosine",)),
        }

    def keys(self, parts: tuple[Part, ...]) -> tuple[str, ...]:
        """Keys of the blocks that `design` takes for these parts."""
        super().keys(parts)
        answers = ("response_a", "response_b")
        return (*answers, "prompt", PAIR) if "prompt" in parts else answers

    def design(self, blocks: Mapping[str, Block], parts: tuple[Part, ...]) -> Design:
        """Odd and even features of the pair from the features of its texts.

        `difference` is a - b (odd), `magnitude` |a - b|, `sum` a + b, `prompt` the features of the
        prompt and of the pair, where `blocks` has them.
        """
        a, b = blocks["response_a"], blocks["response_b"]
        if a.names != b.names:
            raise ValueError("response_a and response_b must have the same features")
        difference = a.X - b.X
        odd = [difference] if "difference" in parts else []
        even = [abs(difference)] if "magnitude" in parts else []
        if "sum" in parts:
            even.append(a.X + b.X)
        if "prompt" in parts:
            even += [blocks[key].X for key in ("prompt", PAIR) if key in blocks]
        return Design(hstack(odd + even), n_odd=sum(X.shape[1] for X in odd))

    def swap_design(self, X: Matrix, n_odd: int) -> Matrix:
        """The design matrix of the exchanged pair: the odd columns with their sign turned."""
        if is_sparse(X):
            sign = np.ones(X.shape[1], dtype=X.dtype)
            sign[:n_odd] = -1
            turned = X.copy()
            turned.data *= sign[turned.indices]
            return turned
        return np.hstack([-X[:, :n_odd], X[:, n_odd:]])


KINDS: tuple[type[Task], ...] = (Preference, SingleLabel, MultiLabel)
TASKS = {task.kind: task for task in KINDS}


def read_task(path: Path) -> Task:
    """The task that labels.json describes."""
    content = read_json(path)
    kind = content.get("kind")
    if kind not in TASKS:
        raise InputError(f"{path}: kind: got {kind!r}; expected one of {sorted(TASKS)}")
    return TASKS[kind](tuple(content["classes"]))
