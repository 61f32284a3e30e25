"""What every model must hold, each with a small section of params."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from stages.core.blocks import write_blocks
from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.matrices import Design
from stages.core.seeds import nth_seed
from stages.core.tables import read_table, write_json, write_table
from stages.core.tasks import Preference
from stages.models import forest, lgbm, logreg, svm
from stages.models._linear import Linear
from stages.models.fitting.crossfit import crossfit
from stages.models.fitting.design import Encoder, SourceParams
from stages.models.fitting.model import load_model
from stages.models.fitting.sample import make_sample
from stages.models.fitting.seeds import with_params
from stages.models.fitting.train import best_elsewhere, read_sets
from tests.given import write_params
from tests.models.small import MODELS, small_params

ODD = {"parts": ["difference"], "scale": "none", "weight": 1.0}
TRIED = (0.15, 0.3, 0.5, 1.0)  # C of a search
SAFE = {".safetensors", ".ubj", ".txt", ".json"}  # formats that run no code when they are read
every_model = pytest.mark.parametrize("name", MODELS)


def make_params(name, **changes):
    return small_params(name, pairs=True, **changes)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """As the stage mlp sets it: on small batches threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fit(task, folds, sets):
    def run(name, **changes):
        params = make_params(name, **changes)
        return crossfit(
            task, folds, sets, params.sources(),
            with_params(load_model(name).fit, params),
            balance=params.balance, seed=params.seed,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def fitted(fit):
    """All models, fitted once."""
    return {name: fit(name) for name in MODELS}


@every_model
def test_swapped_pair_gets_the_exchanged_probabilities(fitted, task, name):
    found = fitted[name]
    np.testing.assert_allclose(task.swap_classes(found.swapped), found.probabilities, atol=1e-6)


@every_model
def test_rows_sum_to_one_and_are_never_zero(fitted, name):
    for values in (fitted[name].probabilities, fitted[name].swapped):
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)
        assert values.min() > 0


@every_model
def test_model_learns_more_than_the_class_shares(fit, folds, name):
    targets = folds.targets[folds.train(None)]
    shares = targets.mean(axis=0)
    more = {"rounds": 40} if hasattr(make_params(name), "rounds") else {}
    assert fit(name, **more).row_losses(folds).mean() < -(targets @ np.log(shares)).mean() - 0.05


@every_model
def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(
    fit, monkeypatch, tmp_path, name
):
    for workers in ("1", "2"):
        monkeypatch.setenv("VERDICT_WORKERS", workers)
        found = fit(name)
        found.save(tmp_path / workers, make_params(name))
        np.save(tmp_path / workers / "probabilities.npy", found.probabilities)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(files) == 3 + 3 + 2  # models, encoders, params and probabilities
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


@pytest.mark.parametrize("name", ["forest", "xgb", "lgbm", "mlp"])
def test_another_seed_gives_another_model(fit, fitted, name):
    assert not np.array_equal(fit(name, seed=99).probabilities, fitted[name].probabilities)


@every_model
def test_saved_model_read_back_gives_the_same_probabilities(
    fitted, task, folds, sets, tmp_path, name
):
    fitted[name].save(tmp_path / "model", make_params(name))
    assert {file.suffix for file in (tmp_path / "model").iterdir()} <= SAFE
    for number, fold in fitted[name].fits.items():
        X = fold.encoder(sets, fold.rows).X
        read = load_model(name).load(tmp_path / "model" / f"fold{number}", task)
        np.testing.assert_array_equal(read.predict(X), fold.model.predict(X))


@every_model
def test_model_of_bad_params_is_refused_with_its_fault(name):
    with pytest.raises(ValidationError, match="unknown_key"):
        make_params(name, unknown_key=1)
    with pytest.raises(ValidationError, match="seed"):
        make_params(name, seed=-1)


@pytest.mark.parametrize("name", ["logreg", "svm", "forest", "xgb", "lgbm", "mlp"])
def test_what_is_saved_is_the_format_of_its_library(fitted, folds, sets, tmp_path, name):
    fitted[name].save(tmp_path / "model", make_params(name))
    suffix = {"xgb": "ubj", "lgbm": "txt"}.get(name, "safetensors")
    for number, fold in fitted[name].fits.items():
        path = tmp_path / "model" / f"fold{number}.{suffix}"
        X = fold.encoder(sets, fold.rows).X
        np.testing.assert_allclose(READERS[name](path)(X), fold.model.predict(X), atol=1e-6)


def read_linear(path):
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return lambda X: softmax(X @ arrays["coef"].T + arrays["intercept"], axis=1)


def read_mlp(path):
    from safetensors.numpy import load_file

    arrays = load_file(path)

    def predict(X):
        hidden = np.maximum(X @ arrays["weight.0"].T + arrays["bias.0"], 0)
        return softmax(hidden @ arrays["weight.1"].T + arrays["bias.1"], axis=1)

    return predict


def read_forest(path):
    from safetensors.numpy import load_file

    arrays = load_file(path)

    def leaf(row, node):
        while node >= 0:
            left = row[arrays["feature"][node]] <= arrays["threshold"][node]
            node = arrays["left" if left else "right"][node]
        return arrays["leaves"][~node]

    return lambda X: np.array([np.mean([leaf(x, r) for r in arrays["roots"]], axis=0) for x in X])


def read_xgb(path):
    import xgboost

    booster = xgboost.Booster(model_file=path)
    return lambda X: booster.predict(xgboost.DMatrix(X))


def read_lgbm(path):
    import lightgbm

    return lightgbm.Booster(model_file=path).predict


READERS = {
    "logreg": read_linear, "svm": read_linear, "forest": read_forest, "xgb": read_xgb,
    "lgbm": read_lgbm, "mlp": read_mlp,
}  # fmt: skip


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_logistic_regression_is_that_of_scikit_learn_on_both_orders(sample, C):
    weighted = replace(sample, weight=np.linspace(0.5, 2, len(sample.y)))
    model = logreg.fit(weighted, make_params("logreg", C=C), 0)
    both = weighted.both_orders()
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    oracle.fit(both.X.astype(np.float64), both.y, both.weight)
    np.testing.assert_allclose(
        model.predict(both.X), oracle.predict_proba(both.X.astype(np.float64)), atol=1e-5
    )


def test_seeds_share_their_bins_and_nothing_else(sample):
    several = lgbm.fit(sample, make_params("lgbm", seeds=3), 0)
    for number, model in enumerate(several.models):
        alone = lgbm.fit(sample, make_params("lgbm"), nth_seed(0, number))
        np.testing.assert_array_equal(model.predict(sample.X), alone.predict(sample.X))


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_machines_of_a_pair_are_those_of_scikit_learn_on_both_orders(sample, C):
    weighted = replace(sample, weight=np.linspace(0.5, 2, len(sample.y)))
    rows = np.flatnonzero(np.arange(len(sample.y)) % 5)
    coef, intercept = svm._machines(weighted, rows, make_params("svm", C=C), 0, 1e-8)
    both = weighted.take(rows).both_orders()
    X = both.X.astype(np.float64)
    oracle = LinearSVC(C=C, dual=False, tol=1e-10, max_iter=10_000).fit(X, both.y, both.weight)
    np.testing.assert_allclose(coef, oracle.coef_, atol=1e-4)
    np.testing.assert_allclose(intercept, oracle.intercept_, atol=1e-4)


def test_machines_that_begin_with_similar_ones_end_the_same_in_fewer_steps(sample, monkeypatch):
    dot, calls = svm.OddEven.dot, []
    monkeypatch.setattr(svm.OddEven, "dot", lambda X, coef: calls.append(1) or dot(X, coef))
    rows, found, steps = np.arange(len(sample.y)), [], []
    for similar in ((), [(np.ones((3, sample.X.shape[1])), np.zeros(3))], found):
        calls.clear()
        found.append(svm._machines(sample, rows, make_params("svm"), 0, 1e-8, similar[:1]))
        steps.append(len(calls))
    for coef, intercept in found:
        np.testing.assert_allclose(coef, found[0][0], atol=1e-4)
        np.testing.assert_allclose(intercept, found[0][1], atol=1e-4)
    assert steps[2] < steps[0]


def test_soft_targets_equal_repeated_hard_rows_for_logistic_regression(task):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 3)).astype(np.float32)
    design = Design(X, 2)
    votes = rng.multinomial(4, [0.5, 0.3, 0.2], size=20)
    row = np.repeat(np.arange(20), 4)
    hard = np.eye(3)[np.concatenate([np.repeat([0, 1, 2], v) for v in votes])]
    repeated = Design(X[row], 2)
    soft = make_sample(task, design, votes / 4, np.arange(20), "none", 0)
    many = make_sample(task, repeated, hard, row, "none", 0)
    assert len(soft.y) < len(many.y) == 80
    one = logreg.fit(soft, make_params("logreg", C=4.0), 0)  # the weights are a fourth
    other = logreg.fit(many, make_params("logreg", C=1.0), 0)
    np.testing.assert_allclose(one.predict(X), other.predict(X), atol=1e-3)


def test_order_of_the_rows_does_not_matter_to_convex_models(sample):
    order = np.random.default_rng(0).permutation(len(sample.y))
    mixed = sample.take(order)
    for name in ("logreg", "svm"):
        one, other = (load_model(name).fit(s, make_params(name), 0) for s in (sample, mixed))
        np.testing.assert_allclose(one.predict(sample.X), other.predict(sample.X), atol=1e-3)


def test_svm_calibrates_on_margins_of_rows_that_its_machine_did_not_see(sample, monkeypatch):
    machines, seen = [], []

    def machine(part, rows, params, seed, slope, similar):
        assert len(similar) == len(machines)
        assert slope == (svm.SLOPE if len(rows) == len(part.y) else svm.SLOPE_INSIDE)
        machines.append(set(part.group[rows].tolist()))
        return np.zeros((3, part.X.shape[1])), np.full(3, float(len(machines)))

    def margins(X, coef, intercept):
        seen.append((intercept[0], len(X)))
        return np.tile(intercept, (len(X), 1))

    monkeypatch.setattr(svm, "_machines", machine)
    monkeypatch.setattr(svm, "_margins", margins)
    svm.fit(sample, make_params("svm"), 0)
    groups = set(sample.group.tolist())
    *inner, kept = machines
    assert kept == groups
    held = [groups - part for part in inner]
    assert set.union(*held) == groups
    assert seen == [
        (number, np.isin(sample.group, list(own)).sum())
        for number, own in enumerate(held, 1)
        for _ in ("as it stands", "exchanged")
    ]


@pytest.mark.parametrize("name", ["xgb", "lgbm", "mlp"])
def test_early_stopping_finds_fewer_rounds_and_fits_the_whole_sample(sample, name):
    drawn = np.random.default_rng(0).permutation(sample.y)
    shuffled = replace(sample, y=drawn)  # nothing to learn: more rounds only hurt
    more = {"rounds": 60, "learning_rate": 0.3 if name != "mlp" else 0.05}
    model = load_model(name).fit(shuffled, make_params(name, **more), 0)
    stopless = load_model(name).fit(shuffled, make_params(name, **more, stopping=None), 0)
    assert spread(model, sample.X) < spread(stopless, sample.X)
    if name != "mlp":
        rounds = (
            model.booster.num_boosted_rounds
            if name == "xgb"
            else model.boosters[0].current_iteration
        )
        assert rounds() < 60


def spread(model, X):
    return model.predict(X).std(axis=0).mean()


@pytest.fixture(scope="module")
def sample(task, folds, sets):
    rows = folds.train(None)
    design = task.design(sets["style"], ("difference", "sum"))
    own = Design(design.X[rows], design.n_odd)
    return make_sample(task, own, folds.targets[rows], folds.group[rows], "none", 0)


def test_forest_is_that_of_scikit_learn_with_gini_on_both_orders(sample):
    weighted = replace(sample, weight=np.linspace(0.5, 2, len(sample.y)))
    params = make_params("forest", smoothing=1e-12, min_samples_leaf=9)
    model = forest.fit(weighted, params, 7)
    both = weighted.both_orders()
    oracle = RandomForestClassifier(
        params.trees, max_features=params.max_features, max_samples=params.max_samples,
        min_samples_leaf=params.min_samples_leaf, random_state=7,
    )  # fmt: skip
    oracle.fit(both.X, both.y, both.weight)
    np.testing.assert_allclose(model.predict(both.X), oracle.predict_proba(both.X), atol=1e-6)


def test_no_tree_grows_on_more_than_max_rows(sample):
    few = forest.fit(sample, make_params("forest", max_rows=10, min_samples_leaf=1), 0)
    many = forest.fit(sample, make_params("forest", min_samples_leaf=1), 0)
    assert len(few.leaves) <= 10 * len(few.roots) < len(many.leaves)


def test_smoothing_of_a_forest_draws_its_leaves_to_the_class_shares(sample):
    shares = np.bincount(sample.both_orders().y) / (2 * len(sample.y))
    loose, tight = (forest.fit(sample, make_params("forest", smoothing=m), 0) for m in (1e-12, 1e6))
    np.testing.assert_allclose(
        tight.predict(sample.X), np.tile(shares, (len(sample.y), 1)), atol=1e-2
    )
    assert spread(loose, sample.X) > 10 * spread(tight, sample.X)


def test_forest_of_roots_knows_the_class_shares_only(sample):
    model = forest.fit(sample, make_params("forest", min_samples_leaf=1000), 0)
    assert len(model.feature) == 0
    assert (model.roots < 0).all()
    assert len(np.unique(model.predict(sample.X), axis=0)) == 1


def test_linear_scores_do_not_lose_digits():
    model = Linear(Preference(), np.array([[1, -1]], np.float32), np.array([0.5], np.float32))
    X = np.array([[1e4 + 1, 1e4]])
    assert model.scores(X)[0, 0] == 1.5


def write_inputs(layout, folds, sets, section):
    """All that the stage logreg reads, the features in another row order than the folds."""
    frame = pd.DataFrame({"id": folds.ids, "part": folds.part, "fold": folds.fold})
    frame["group"] = folds.group
    frame[["y_a", "y_b", "y_tie"]] = folds.targets
    write_table(frame, layout.folds)
    write_json({"kind": "preference", "classes": ["a", "b", "tie"]}, layout.labels)
    order = np.random.default_rng(0).permutation(len(frame))
    ids = folds.ids.iloc[order].reset_index(drop=True)
    blocks = {k: SimpleNamespace(X=b.X[order], names=b.names) for k, b in sets["tfidf"].items()}
    write_blocks(layout.features("tfidf"), ids, blocks)
    style = pd.DataFrame(
        {
            f"{key}.{name}": block.X[order, i]
            for key, block in sets["style"].items()
            for i, name in enumerate(block.names)
        }
    )
    style.insert(0, "id", ids)
    write_table(style, layout.features("style"))
    write_params(layout.root, "tiny", logreg=section)


def run_logreg(folds, sets, changes, layout, monkeypatch):
    """The predictions of the stage logreg; it takes no embeddings."""
    section = make_params("logreg", embed=None).model_dump(mode="json") | changes
    write_inputs(layout, folds, sets, section)
    monkeypatch.chdir(layout.root)
    logreg.main(dataset="tiny")
    return read_table(layout.predictions("logreg"))


@pytest.fixture
def layout(tmp_path):
    return Layout("tiny", tmp_path)


@pytest.fixture(scope="module")
def without_embeddings(fit):
    return fit("logreg", embed=None)


def test_stage_writes_the_best_trial_of_its_search(
    folds, sets, without_embeddings, layout, monkeypatch
):
    plan = {"sampler": "grid", "trials": 2, "seed": 0, "space": {"C": {"choices": [0.1, 1e-6]}}}
    table = run_logreg(folds, sets, {"C": 1e-9, "search": plan}, layout, monkeypatch)
    trials = pd.read_csv(layout.trials("logreg"))
    assert sorted(trials["C"]) == [1e-9, 1e-6, 0.1]
    assert trials.loc[trials["log_loss"].idxmin(), "C"] == 0.1
    assert json.loads((layout.model("logreg") / "params.json").read_text())["C"] == 0.1
    assert table["id"].tolist() == folds.ids.tolist()
    found = table[["p_a", "p_b", "p_tie"]].to_numpy()
    np.testing.assert_allclose(found, without_embeddings.probabilities, atol=1e-6)
    assert set(table) >= {"part", "swapped_p_a", "swapped_p_b", "swapped_p_tie"}
    cost = json.loads(layout.cost("logreg").read_text())
    assert set(cost) == {
        *("wall_seconds", "cpu_seconds", "peak_memory_mb", "fitted_size_mb", "predict_ms_per_row")
    }
    assert all(value >= 0 for value in cost.values())


def test_faults_that_the_section_alone_does_not_show_are_told_before_the_first_fit(
    folds, sets, layout, monkeypatch
):
    plan = {"sampler": "grid", "trials": 2, "seed": 0, "space": {"Q": {"choices": [1]}}}
    section = {"search": plan, "tfidf": ODD | {"parts": ["text"]}}

    def fit(*_, **__):
        raise AssertionError("fitted")

    monkeypatch.setattr("stages.models.fitting.train.crossfits", fit)
    with pytest.raises(InputError) as caught:
        run_logreg(folds, sets, section, layout, monkeypatch)
    head, *faults = str(caught.value).splitlines()
    assert head == "params/tiny.yaml: 2 fault(s)"
    assert faults[0].startswith(
        "  logreg.tfidf.parts: got ['text']; expected some of ['difference'"
    )
    assert faults[1].startswith("  logreg.search.space.Q: no such param")
    assert not layout.model("logreg").exists()


def test_rows_of_a_fold_are_judged_by_the_trial_that_is_best_on_the_others():
    fold = np.array([0, 1, 2, 0, 1, 2])
    losses = np.array([[0, 0, 9, 0, 0, 9], [4, 4, 4, 4, 4, 4], [1, 5, 5, 1, 5, 5.0]])
    assert best_elsewhere(losses, fold).tolist() == [1, 2, 0, 1, 2, 0]
    assert best_elsewhere(losses[1:2], fold).tolist() == [0] * 6


def test_search_is_judged_nested(fit, folds, sets, layout, monkeypatch):
    plan = {"sampler": "grid", "trials": 3, "seed": 0, "space": {"C": {"choices": TRIED[1:]}}}
    table = run_logreg(folds, sets, {"C": TRIED[0], "search": plan}, layout, monkeypatch)
    trials = [fit("logreg", C=C, embed=None) for C in TRIED]
    losses = np.stack([trial.row_losses(folds) for trial in trials])
    found = table[["p_a", "p_b", "p_tie"]].to_numpy()
    winners = set()
    for fold in folds.numbers:
        rows = folds.held(fold)
        best = losses[:, folds.fold[folds.judged] != fold].mean(axis=1).argmin()
        np.testing.assert_allclose(found[rows], trials[best].probabilities[rows], atol=1e-6)
        winners.add(best)
    assert len(winners) > 1
    best = losses.mean(axis=1).argmin()
    unseen = folds.unseen
    np.testing.assert_allclose(found[unseen], trials[best].probabilities[unseen], atol=1e-6)


def test_model_goes_without_a_feature_set_that_is_empty(task, sets, folds, layout, caplog):
    write_blocks(layout.features("embed"), folds.ids, {})
    write_blocks(layout.features("tfidf"), folds.ids, sets["tfidf"])
    assert read_sets(layout, (), folds.ids) == {}
    found = read_sets(layout, ("tfidf", "embed"), folds.ids)
    assert "embed: is empty, so the model goes without it" in caplog.text
    one = SourceParams(parts=("difference",), scale="none", weight=1.0)
    rows = folds.train(0)
    alone = Encoder.fit(task, {"tfidf": one}, found, rows)
    both = Encoder.fit(task, {"tfidf": one, "embed": one}, found, rows)
    stored = Encoder(task, {"tfidf": one, "embed": one}, both.state)  # as it is loaded
    for encoder in (both, stored):
        assert (alone(found, rows).X != encoder(found, rows).X).nnz == 0
    with pytest.raises(InputError, match=r"^embed: got empty feature sets; expected features in"):
        read_sets(layout, ("embed",), folds.ids)
