import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from stages.core.errors import InputError
from stages.core.matrices import Block, cosine, hstack, vstack
from stages.core.tasks import PAIR, MultiLabel, Preference, SingleLabel, read_task

TASK = Preference()
PARTS = ("difference", "magnitude", "sum", "prompt")


def make_blocks(seed, *, is_sparse=False, n_rows=5):
    rng = np.random.default_rng(seed)
    sizes = {"prompt": 2, "response_a": 3, "response_b": 3, PAIR: 1}
    blocks = {}
    for key, size in sizes.items():
        X = (rng.normal(size=(n_rows, size)) * (rng.random((n_rows, size)) < 0.6)).astype("f4")
        names = tuple(f"f{i}" for i in range(size))
        blocks[key] = Block(sparse.csr_matrix(X) if is_sparse else X, names)
    return blocks


def dense(X):
    return X.toarray() if sparse.issparse(X) else X


@given(
    seed=st.integers(0, 10_000),
    is_sparse=st.booleans(),
    parts=st.lists(st.sampled_from(PARTS), min_size=1, unique=True).map(tuple),
)
def test_design_of_the_swapped_pair_is_the_swapped_design(seed, is_sparse, parts):
    blocks = make_blocks(seed, is_sparse=is_sparse)
    design = TASK.design(blocks, parts)
    swapped = TASK.design(TASK.swap_blocks(blocks), parts)
    np.testing.assert_array_equal(dense(swapped.X), dense(TASK.swap_design(design.X, design.n_odd)))
    assert swapped.n_odd == design.n_odd


@given(seed=st.integers(0, 10_000), is_sparse=st.booleans())
def test_swap_is_an_involution(seed, is_sparse):
    blocks = make_blocks(seed, is_sparse=is_sparse)
    assert TASK.swap_blocks(TASK.swap_blocks(blocks)) == blocks
    design = TASK.design(blocks, PARTS)
    twice = TASK.swap_design(TASK.swap_design(design.X, design.n_odd), design.n_odd)
    np.testing.assert_array_equal(dense(twice), dense(design.X))
    values = np.random.default_rng(seed).random((4, 3))
    np.testing.assert_array_equal(TASK.swap_classes(TASK.swap_classes(values)), values)


def test_swap_exchanges_a_and_b_and_leaves_the_tie():
    np.testing.assert_array_equal(TASK.swap_classes(np.array([[0.5, 0.3, 0.2]])), [[0.3, 0.5, 0.2]])
    assert TASK.swap_class_numbers(np.array([0, 1, 2, 0])).tolist() == [1, 0, 2, 1]


def test_design_holds_the_parts_by_hand():
    blocks = {
        "prompt": Block(np.array([[9.0]]), ("n",)),
        "response_a": Block(np.array([[1.0, 5.0]]), ("n", "m")),
        "response_b": Block(np.array([[4.0, 2.0]]), ("n", "m")),
        PAIR: Block(np.array([[7.0]]), ("cosine",)),
    }
    design = TASK.design(blocks, ("prompt", "sum", "magnitude", "difference"))
    difference, magnitude, total, prompt, cosine = [-3, 3], [3, 3], [5, 7], [9], [7]
    assert design.X.tolist() == [difference + magnitude + total + prompt + cosine]
    assert design.n_odd == len(difference)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_join_keeps_odd_columns_first(is_sparse):
    one = TASK.design(make_blocks(1), PARTS)
    other = TASK.design(make_blocks(2, is_sparse=is_sparse), ("difference", "prompt"))
    joined = one.join(other)
    assert joined.n_odd == one.n_odd + other.n_odd
    odd, even = zip(*(np.hsplit(dense(each.X), [each.n_odd]) for each in (one, other)), strict=True)
    np.testing.assert_array_equal(dense(joined.X), np.hstack([*odd, *even]))


def test_relate_adds_cosines_that_follow_the_swap():
    rng = np.random.default_rng(0)
    vectors = {key: rng.normal(size=(4, 6)) for key in TASK.text_columns}
    vectors["response_b"][1] = 0  # an empty text
    exchanged = vectors | {"response_a": vectors["response_b"], "response_b": vectors["response_a"]}
    blocks = TASK.relate(vectors)
    design = TASK.design(blocks, PARTS)
    swapped = TASK.design(TASK.relate(exchanged), PARTS)
    np.testing.assert_array_equal(swapped.X, TASK.swap_design(design.X, design.n_odd))
    a, b = vectors["response_a"], vectors["response_b"]
    expected = a[2] @ b[2] / np.sqrt(a[2] @ a[2]) / np.sqrt(b[2] @ b[2])
    assert blocks[PAIR].X[2, 0] == pytest.approx(expected)
    assert blocks[PAIR].X[1, 0] == 0
    assert blocks["response_b"].X[1].tolist() == [0] * 7


def test_cosine_of_a_zero_vector_is_zero():
    np.testing.assert_allclose(
        cosine(np.array([[0, 0], [3, 4]]), np.ones((2, 2))), [0, 7 / 50**0.5]
    )


def test_stacks_are_sparse_if_any_part_is():
    one, other = np.eye(2), sparse.csr_matrix(np.ones((2, 2)))
    assert sparse.issparse(hstack([one, other]))
    assert sparse.issparse(vstack([one, other]))
    assert isinstance(hstack([one, one]), np.ndarray)
    assert isinstance(vstack([one, one]), np.ndarray)


def test_answers_must_have_the_same_features():
    blocks = make_blocks(0)
    blocks["response_b"] = Block(blocks["response_b"].X, ("f0", "f2", "f1"))
    with pytest.raises(ValueError, match="must have the same features"):
        TASK.design(blocks, PARTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "ranking", "classes": ["a"]}, r"labels\.json: kind: got 'ranking'; expected"),
        ({}, r"labels\.json: kind: got None"),
        ({"kind": "preference", "classes": ["b", "a", "tie"]}, r"got \['b', 'a', 'tie'\]"),
        ({"kind": "single_label", "classes": []}, r"classes: got \[\]; expected at least one"),
        ({"kind": "multi_label", "classes": ["x", "x"]}, r"got \['x', 'x'\](?s:.)*each name once"),
    ],
)
def test_labels_that_are_no_task_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_task(path)


def test_labels_give_the_task(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"kind": "preference", "classes": ["a", "b", "tie"]}))
    assert read_task(path).classes == ("a", "b", "tie")


@pytest.mark.parametrize("kind", [SingleLabel, MultiLabel])
def test_labels_give_a_task_on_texts_with_the_classes_of_the_file(tmp_path, kind):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"kind": kind.kind, "classes": ["joy", "anger"]}))
    task = read_task(path)
    assert type(task) is kind
    assert task.classes == ("joy", "anger")
    assert task.text_columns == ("text",)
    assert not task.symmetric


@pytest.mark.parametrize("task", [SingleLabel(("x", "y")), MultiLabel(("x", "y"))])
def test_text_is_its_own_design_and_its_own_exchange(task):
    blocks = task.relate({"text": np.arange(6.0).reshape(3, 2)})
    assert task.keys(("text",)) == ("text",)
    design = task.design(blocks, ("text",))
    assert (design.X.shape, design.n_odd) == ((3, 2), 0)
    np.testing.assert_array_equal(design.X, blocks["text"].X)
    assert task.swap_design(design.X, design.n_odd) is design.X
    assert task.swap_blocks(blocks) == blocks
    assert task.swap_classes(design.X) is design.X
    assert task.swap_class_numbers(np.array([1, 0])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("task", "parts"), [(TASK, ("text",)), (SingleLabel(("x", "y")), ("difference", "text"))]
)
def test_parts_that_a_task_has_not_are_refused(task, parts):
    with pytest.raises(
        InputError, match=rf"got \['{parts[0]}'.*expected some of .* for {task.kind}"
    ):
        task.keys(parts)


def test_only_a_symmetric_task_has_utility_scores():
    task = SingleLabel(("x", "y"))
    with pytest.raises(TypeError, match="single_label is not symmetric"):
        task.scores(np.zeros(1), np.zeros(1))
    with pytest.raises(TypeError, match="single_label is not symmetric"):
        task.slopes(np.zeros((1, 2)))


MANY = [TASK, SingleLabel(("x", "y", "z")), MultiLabel(("x", "y", "z"))]


def make_targets(task, n=50, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet(np.ones(3), n) if task.exclusive else rng.random((n, 3))
    drawn[: n // 2] = np.eye(3)[drawn[: n // 2].argmax(axis=1)]
    return drawn


@pytest.mark.parametrize("task", MANY)
def test_log_loss_is_that_of_scikit_learn(task):
    from sklearn.metrics import log_loss

    hard, p = make_targets(task)[:25], make_targets(task, 60, seed=1)[-25:]
    if task.exclusive:
        oracle = log_loss(hard.argmax(axis=1), p, labels=range(3))
    else:
        oracle = np.mean([log_loss(hard[:, k], p[:, k], labels=[0, 1]) for k in range(3)])
    assert task.row_losses(hard, p).mean() == pytest.approx(oracle)


@pytest.mark.parametrize("task", MANY)
def test_slopes_of_the_loss_are_those_of_small_steps(task):
    targets, p = make_targets(task)[-10:], make_targets(task, seed=1)[-10:]
    slopes = task.loss_slopes(targets, p)
    for k in range(3):
        step = np.zeros(3)
        step[k] = 1e-6
        change = task.row_losses(targets, p + step) - task.row_losses(targets, p - step)
        np.testing.assert_allclose(change / 2e-6, slopes[:, k], rtol=1e-4)


@pytest.mark.parametrize("task", MANY)
def test_certain_and_wrong_probabilities_have_finite_losses_and_slopes(task):
    targets, p = np.eye(3), np.eye(3)[[1, 2, 0]]
    assert np.isfinite(task.row_losses(targets, p)).all()
    assert np.isfinite(task.loss_slopes(targets, p)).all()


@pytest.mark.parametrize("task", MANY)
def test_temperature_divides_the_log_odds(task):
    scores = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_allclose(task.sharpen(task.link(scores), 2.0), task.link(scores / 2))
    np.testing.assert_allclose(task.sharpen(task.link(scores), 1.0), task.link(scores))


def test_probabilities_sum_to_one_only_where_classes_exclude_each_other():
    p = np.array([[0.9, 0.8]])
    assert SingleLabel(("x", "y")).fault(p) == "rows that do not sum to 1"
    assert MultiLabel(("x", "y")).fault(p) is None
    assert MultiLabel(("x", "y")).fault(p + 0.2) == "values outside 0 to 1"
