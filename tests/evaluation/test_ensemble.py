import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import InputError
from stages.core.folds import Folds
from stages.core.layout import ENSEMBLE, Layout
from stages.core.tables import read_table, write_json, write_table
from stages.core.tasks import MultiLabel, Preference
from stages.evaluation import ensemble
from stages.evaluation import judging as _judging
from tests.given import write_build, write_params

TASK = Preference()
N = 3000


@pytest.fixture(scope="module")
def simulated():
    """Two members and their true mixture, 0.7 and 0.3, from which the classes are drawn."""
    rng = np.random.default_rng(0)
    members = rng.dirichlet([0.8, 0.8, 0.8], size=(2, N))
    truth = 0.7 * members[0] + 0.3 * members[1]
    y = (truth.cumsum(axis=1) < rng.random((N, 1))).sum(axis=1)
    fold = rng.integers(0, 3, N)
    part = np.full(N, "train")
    part[-100:], fold[-100:] = "test", -1
    ids = pd.Series([f"r{i}" for i in range(N)])
    return members, Folds(ids, part, fold, np.arange(N), np.eye(3)[y])


def train_rows(folds):
    return folds.part == "train"


def test_blend_recovers_the_weights_of_a_known_mixture(simulated):
    members, folds = simulated
    blend = ensemble.fit_blend(TASK, members, folds.targets, "sharpened")
    np.testing.assert_allclose(blend.weights, [0.7, 0.3], atol=0.05)
    assert blend.temperature == pytest.approx(1, abs=0.05)


def test_weights_stand_on_the_simplex_and_drop_a_useless_member(simulated):
    members, folds = simulated
    noise = np.random.default_rng(1).dirichlet([1, 1, 1], N)
    blend = ensemble.fit_blend(TASK, np.stack([*members, noise]), folds.targets, "mixture")
    assert blend.weights.sum() == pytest.approx(1)
    assert (blend.weights >= 0).all()
    assert blend.weights[2] < 0.03
    assert blend.temperature == 1


def test_no_other_weights_have_a_lower_loss(simulated):
    members, folds = simulated
    blend = ensemble.fit_blend(TASK, members, folds.targets, "mixture")
    best = ensemble.log_loss(TASK, folds.targets, blend(members))
    for first in np.linspace(0, 1, 101):
        other = ensemble.Blend(TASK, np.array([first, 1 - first]), 1.0)
        assert ensemble.log_loss(TASK, folds.targets, other(members)) >= best - 1e-9


def test_member_that_stands_twice_changes_no_blend(simulated):
    members, folds = simulated
    once = ensemble.fit_blend(TASK, members, folds.targets, "sharpened")
    twice = members[[0, 1, 1]]
    found = ensemble.fit_blend(TASK, twice, folds.targets, "sharpened")
    np.testing.assert_allclose(found(twice), once(members), atol=1e-3)


def test_single_member_keeps_its_weight(simulated):
    members, folds = simulated
    assert ensemble.fit_blend(TASK, members[:1], folds.targets, "mixture").weights.tolist() == [1]


def test_temperature_softens_members_that_are_too_sure(simulated):
    members, folds = simulated
    mixed = ensemble.Blend(TASK, np.array([0.7, 0.3]), 1.0)(members)
    sure = ensemble.Blend(TASK, np.ones(1), 0.5)(mixed[None])
    blend = ensemble.fit_blend(TASK, sure[None], folds.targets, "sharpened")
    assert blend.temperature == pytest.approx(2, abs=0.2)
    rows = train_rows(folds)
    plain, calibrated = (
        ensemble.nested(TASK, sure[None], folds, rows, form)[0].mean()
        for form in ("mixture", "sharpened")
    )
    assert calibrated < plain - 0.01


@pytest.mark.parametrize("task", [TASK, MultiLabel(("x", "y", "z"))], ids=lambda t: t.kind)
def test_product_recovers_the_exponents_of_a_known_product(simulated, task):
    members, _ = simulated
    rng = np.random.default_rng(3)
    blended = ensemble.Blend(task, np.array([0.9, 0.4]), product=True)(members)
    # expected labels as soft targets: the minimum is where the blend is the truth
    found = ensemble.fit_blend(task, members, blended, "product")
    np.testing.assert_allclose(found.weights, [0.9, 0.4], atol=5e-3)
    for _ in range(20):
        other = ensemble.Blend(task, found.weights + rng.normal(0, 0.05, 2), product=True)
        assert ensemble.log_loss(task, blended, other(members)) >= ensemble.log_loss(
            task, blended, found(members)
        )


def test_product_tempers_one_member_that_is_too_sure(simulated):
    members, folds = simulated
    truth = ensemble.Blend(TASK, np.array([0.5, 0.5]), product=True)(members)
    soft = replace(folds, targets=truth)
    sure = np.stack([members[0], TASK.sharpen(members[1], 0.25)])
    rows = train_rows(folds)
    losses = {form: ensemble.nested(TASK, sure, soft, rows, form)[0] for form in ensemble.FORMS}
    assert losses["product"].mean() < losses["sharpened"].mean() - 0.01
    assert ensemble.choose(losses, folds.group[rows]) == "product"


@pytest.mark.parametrize("form", ensemble.FORMS)
def test_few_rows_leave_weights_near_equal_ones(simulated, form):
    members, _ = simulated
    targets = np.eye(3)[members[0].argmax(axis=1)]  # the first is always right

    def away(n):
        weights = ensemble.fit_blend(TASK, members[:, :n], targets[:n], form).weights
        return np.abs(weights - 0.5).max()

    assert 0 < away(1) < away(10) < away(100)
    assert away(1) < 0.4


def test_rows_that_are_told_apart_do_not_make_the_blend_certain():
    """On them alone each power lowers the loss, however high it is."""
    targets = np.eye(3)[np.arange(30) % 3]
    members = np.stack([0.1 + 0.7 * targets, 0.2 + 0.4 * targets])
    blended = ensemble.fit_blend(TASK, members, targets, "product")(members)
    assert 1e-6 < blended.min() < 0.05


def test_certain_and_wrong_member_has_a_finite_loss():
    members = np.array([[[1.0, 0, 0], [0, 0, 1.0]]])
    blend = ensemble.fit_blend(TASK, members, np.eye(3)[[1, 2]], "sharpened")
    assert np.isfinite(blend(members)).all()


def test_rows_are_judged_by_blends_that_never_saw_them(simulated):
    members, folds = simulated
    rows = train_rows(folds)
    _, before = ensemble.nested(TASK, members, folds, rows, "sharpened")
    targets = folds.targets.copy()
    targets[folds.held(1)] = [0, 0, 1]
    _, after = ensemble.nested(TASK, members, replace(folds, targets=targets), rows, "sharpened")
    assert sorted(before) == [0, 1, 2]
    np.testing.assert_array_equal(before[1].weights, after[1].weights)
    assert before[1].temperature == after[1].temperature
    assert before[0].temperature != after[0].temperature


def test_nested_loss_is_that_of_the_blended_out_of_fold_rows(simulated):
    members, folds = simulated
    rows = train_rows(folds)
    losses, blends = ensemble.nested(TASK, members, folds, rows, "sharpened")
    final = ensemble.Blend(TASK, np.array([0.5, 0.5]), 1.0)
    blended = ensemble.apply(blends, final, members, folds)
    loss = ensemble.log_loss(TASK, folds.targets[rows], blended[rows])
    assert loss == pytest.approx(losses.mean())
    np.testing.assert_array_equal(blended[~rows], final(members)[~rows])


def write_inputs(folder, simulated):
    members, folds = simulated
    layout = Layout("tiny", folder)
    frame = pd.DataFrame({"id": folds.ids, "part": folds.part, "fold": folds.fold})
    frame["group"] = folds.group
    frame[["y_a", "y_b", "y_tie"]] = folds.targets
    write_table(frame, layout.folds)
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
    write_build(folder, ["x", "y"])
    write_params(folder, "tiny", ensemble={"members": ["x", "y"]})
    for name, values in zip("xy", members, strict=True):
        table = pd.DataFrame({"id": folds.ids, "part": np.where(train_rows(folds), "oof", "test")})
        table[["p_a", "p_b", "p_tie"]] = values
        table[["swapped_p_a", "swapped_p_b", "swapped_p_tie"]] = values[:, [1, 0, 2]]
        write_table(table.iloc[::-1], layout.predictions(name))


def run_stage(folder, monkeypatch):
    monkeypatch.chdir(folder)
    ensemble.main(dataset="tiny")
    layout = Layout("tiny")
    return read_table(layout.predictions(ENSEMBLE)), json.loads(layout.weights.read_text())


def change(folder, name, function):
    path = Layout("tiny", folder).predictions(name)
    write_table(function(read_table(path)), path)


def test_stage_blends_and_obeys_the_swap(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    table, weights = run_stage(tmp_path, monkeypatch)
    assert table["id"].tolist() == simulated[1].ids.tolist()
    values = table[["p_a", "p_b", "p_tie"]].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-9)
    swapped = table[["swapped_p_a", "swapped_p_b", "swapped_p_tie"]].to_numpy()
    np.testing.assert_allclose(TASK.swap_classes(swapped), values, atol=1e-6)
    assert sum(weights["weight"].values()) == pytest.approx(1)
    assert weights["weight"]["x"] == pytest.approx(0.7, abs=0.05)
    assert list(weights["weight"]) == list(weights["member_log_loss"]) == ["x", "y"]
    nested = weights["nested_log_loss"]
    assert list(nested) == list(ensemble.FORMS)
    rows = train_rows(simulated[1])
    loss = ensemble.log_loss(TASK, simulated[1].targets[rows], values[rows])
    assert min(nested.values()) - 1e-9 <= loss <= max(nested.values()) + 1e-9


def test_given_weights_are_normalised_and_judged_as_they_are(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    write_params(tmp_path, "tiny", ensemble={"weights": {"y": 50, "x": 150}})
    table, weights = run_stage(tmp_path, monkeypatch)
    assert weights["weight"] == {"y": 0.25, "x": 0.75}
    assert weights["temperature"] == 1
    members, folds = simulated
    expected = 0.75 * members[0] + 0.25 * members[1]
    values = table[["p_a", "p_b", "p_tie"]].to_numpy()
    np.testing.assert_allclose(values, expected, atol=1e-12)
    rows = train_rows(folds)
    loss = ensemble.log_loss(TASK, folds.targets[rows], expected[rows])
    assert weights["nested_log_loss"] == {"mixture": pytest.approx(loss)}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weights": {"x": 1, "z": 1}}, r"ensemble\.weights: not built, got \['z'\]; expected w"),
        ({"weights": {"x": 0}}, r"weights\.x: .*greater than 0"),
        ({"weights": {"x": 1}, "members": ["x", "y"]}, r"expected one for each of members"),
    ],
)
def test_given_weights_that_fit_no_members_are_refused(
    simulated, tmp_path, monkeypatch, section, message
):
    write_inputs(tmp_path, simulated)
    write_params(tmp_path, "tiny", ensemble=section)
    with pytest.raises(InputError, match=message):
        run_stage(tmp_path, monkeypatch)


def test_given_weight_of_a_member_without_rows_out_of_fold_is_refused(
    simulated, tmp_path, monkeypatch
):
    write_inputs(tmp_path, simulated)
    write_params(tmp_path, "tiny", ensemble={"weights": {"x": 1, "y": 1}})
    change(tmp_path, "y", lambda table: table[table["part"] == "test"])
    with pytest.raises(InputError, match=r"weights: no row predicted out of fold, got \['y'\]"):
        run_stage(tmp_path, monkeypatch)


def test_given_weights_of_members_without_a_row_in_common_are_refused(
    simulated, tmp_path, monkeypatch
):
    write_inputs(tmp_path, simulated)
    write_params(tmp_path, "tiny", ensemble={"weights": {"x": 1, "y": 1}})
    fold = pd.Series(simulated[1].fold, simulated[1].ids)
    for name, own in (("x", 0), ("y", 1)):
        change(tmp_path, name, lambda table, own=own: table[table["id"].map(fold).isin([own, -1])])
    with pytest.raises(InputError, match="weights: got no row that all predicted out of fold"):
        run_stage(tmp_path, monkeypatch)


def test_form_of_a_fold_is_chosen_on_the_other_folds(simulated, tmp_path, monkeypatch):
    """On fold 0 a temperature is so good that it wins over all rows, elsewhere it is worse."""
    fold = simulated[1].fold[train_rows(simulated[1])]
    weights = {"mixture": (1.0, 0.0), "sharpened": (0.0, 1.0), "product": (1.0, 1.0)}
    losses = {
        "mixture": np.ones(len(fold)),
        "sharpened": np.where(fold == 0, -8.0, 1.1),
        "product": np.full(len(fold), 9.0),
    }

    def nested(task, members, folds, judged, form):
        return losses[form], dict.fromkeys(range(5), ensemble.Blend(task, np.array(weights[form])))

    monkeypatch.setattr(ensemble, "nested", nested)
    write_inputs(tmp_path, simulated)
    table, written = run_stage(tmp_path, monkeypatch)
    assert written["temperature"] != 1
    written = table.loc[(table["part"] == "oof").to_numpy(), "p_a"]
    for member, used in zip(simulated[0], (fold == 0, fold != 0), strict=True):
        own = member[train_rows(simulated[1]), 0]
        np.testing.assert_array_equal(np.isclose(written, own, atol=1e-9), used)


@pytest.mark.parametrize(
    ("losses", "temperate", "product"),
    [
        ((1, 1, 1), False, False),
        ((1, 0.9, 1), True, False),
        ((1, 0.9, 0.8), False, True),
        ((1, 0.9, 0.89), True, False),  # within the noise of its gain
    ],
)
def test_temperature_has_to_gain_and_product_more_than_noise(
    simulated, tmp_path, monkeypatch, losses, temperate, product
):
    noise = np.random.default_rng(0).normal(scale=2, size=N - 100) * (np.arange(3)[:, None] == 2)

    def nested(task, members, folds, judged, form):
        place = ensemble.FORMS.index(form)
        same = ensemble.Blend(task, np.array([0.5, 0.5]))
        return losses[place] + noise[place] - noise[place].mean(), dict.fromkeys(range(5), same)

    monkeypatch.setattr(ensemble, "nested", nested)
    write_inputs(tmp_path, simulated)
    _, weights = run_stage(tmp_path, monkeypatch)
    assert (weights["temperature"] != 1) is temperate
    assert (weights["product"] == 1) is product


def test_stage_writes_the_same_bytes_twice(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    found = []
    for _ in range(2):
        run_stage(tmp_path, monkeypatch)
        paths = (Layout("tiny").predictions(ENSEMBLE), Layout("tiny").weights)
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_only_rows_that_every_member_predicted_are_blended(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    lost = set(simulated[1].ids[simulated[1].held(2)]) | {"r2999"}  # a fold and a test row
    change(tmp_path, "y", lambda table: table[~table["id"].isin(lost)])
    table, weights = run_stage(tmp_path, monkeypatch)
    assert set(table["id"]) == set(simulated[1].ids) - lost
    assert not table.isna().any(axis=None)
    assert weights["weight"]["x"] == pytest.approx(0.7, abs=0.06)


def test_one_common_fold_is_judged_on_parts_of_its_groups(simulated, tmp_path, monkeypatch):
    members, folds = simulated
    folds = replace(folds, group=np.arange(N) // 2)
    write_inputs(tmp_path, (members, folds))
    held, unseen = set(folds.ids[folds.held(1)]), set(folds.ids[folds.unseen])
    change(tmp_path, "y", lambda table: table[table["id"].isin(held | unseen)])
    table, weights = run_stage(tmp_path, monkeypatch)
    assert set(table["id"]) == held | unseen
    assert weights["rows"] == len(held)
    rows = folds.held(1)
    for name, member in zip("xy", members, strict=True):
        own = ensemble.log_loss(TASK, folds.targets[rows], member[rows])
        assert weights["member_log_loss"][name] == pytest.approx(own)
    judged = np.isin(np.arange(N), rows)
    parts = _judging.judging_folds(folds, judged)
    assert len(parts.numbers) == _judging.PARTS
    split = pd.Series(parts.fold[rows]).groupby(folds.group[rows]).nunique()
    assert (split == 1).all()
    assert (parts.fold[~judged] == -1).all()


def test_members_without_common_rows_are_refused(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    held = [set(simulated[1].ids[simulated[1].held(fold)]) for fold in (0, 1)]
    change(tmp_path, "x", lambda table: table[table["id"].isin(held[0])])
    change(tmp_path, "y", lambda table: table[table["id"].isin(held[1])])
    with pytest.raises(InputError, match=r"tiny\.yaml: ensemble\.members: got 0 folds"):
        run_stage(tmp_path, monkeypatch)


def test_member_that_predicted_no_row_out_of_fold_is_left_out(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    change(tmp_path, "y", lambda table: table.iloc[:0])
    table, weights = run_stage(tmp_path, monkeypatch)
    assert len(table) == N
    assert weights["weight"] == {"x": 1}
    assert list(weights["member_log_loss"]) == ["x"]
    change(tmp_path, "x", lambda table: table[table["part"] == "test"])
    with pytest.raises(InputError, match=r"got no row that any of \['x', 'y'\] predicted"):
        run_stage(tmp_path, monkeypatch)


def test_rows_that_are_no_probabilities_are_refused(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    change(tmp_path, "y", lambda table: table.assign(p_a=table["p_a"] + 1e-3))
    with pytest.raises(InputError, match=r"y\.parquet: got rows that do not sum to 1"):
        run_stage(tmp_path, monkeypatch)


def test_missing_member_is_an_input_error(simulated, tmp_path, monkeypatch):
    write_inputs(tmp_path, simulated)
    write_build(tmp_path, ["x"])
    with pytest.raises(
        InputError, match=r"tiny\.yaml: ensemble\.members: .* got \['y'\]; expected some of \['x'"
    ) as fault:
        run_stage(tmp_path, monkeypatch)
    assert "'svm'" in str(fault.value)
    write_build(tmp_path, ["x", "y"])
    Layout("tiny", tmp_path).predictions("y").unlink()
    with pytest.raises(InputError, match=r"y\.parquet"):
        run_stage(tmp_path, monkeypatch)


@pytest.mark.parametrize("section", [{}, {"members": None}])
def test_all_built_models_are_blended_unless_members_are_named(
    simulated, tmp_path, monkeypatch, section
):
    write_inputs(tmp_path, simulated)
    write_params(tmp_path, "tiny", ensemble=section)
    assert list(run_stage(tmp_path, monkeypatch)[1]["weight"]) == ["x", "y"]
    write_build(tmp_path, ["y"])
    assert run_stage(tmp_path, monkeypatch)[1]["weight"] == {"y": 1}


def test_member_that_is_not_built_is_left_out(simulated, tmp_path, monkeypatch, caplog):
    """`backbones: []` in params.yaml is all that it takes to do without transformers."""
    write_inputs(tmp_path, simulated)
    members = {"members": ["x", "tiny", "svm"]}
    write_params(tmp_path, "tiny", ensemble=members, finetune={"tiny": {}, "other": None})
    caplog.set_level("INFO")
    assert run_stage(tmp_path, monkeypatch)[1]["weight"] == {"x": 1}
    assert "tiny, svm left out" in caplog.text
    write_build(tmp_path, ["y"])
    write_params(tmp_path, "tiny", ensemble=members, finetune={"tiny": {}, "x": None})
    with pytest.raises(InputError, match=r"none of \['x', 'tiny', 'svm'\] is built; expected some"):
        run_stage(tmp_path, monkeypatch)


def test_stored_weights_are_the_blend_of_the_members_that_have_one(tmp_path):
    stored = {"rows": 9, "temperature": 2.0, "product": 0.0}
    stored["weight"] = {"x": 0.25, "y": 0.0, "z": 0.75}
    write_json(stored, tmp_path / "weights.json")
    names, blend = ensemble.load(tmp_path / "weights.json", TASK)
    assert names == ("x", "z")
    assert (blend.weights.tolist(), blend.temperature) == ([0.25, 0.75], 2.0)
    assert not blend.product
    write_json(stored | {"product": 1.0}, tmp_path / "weights.json")
    assert ensemble.load(tmp_path / "weights.json", TASK)[1].product
    write_json({"rows": 9}, tmp_path / "weights.json")
    with pytest.raises(InputError, match="expected weights and the form"):
        ensemble.load(tmp_path / "weights.json", TASK)
