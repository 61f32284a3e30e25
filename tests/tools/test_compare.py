"""Two revisions of a made-up repository, and the statistics on simulated losses."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stages.core.errors import InputError
from stages.core.tables import write_table
from stages.evaluation import judging
from stages.evaluation.scoring.losses import write_losses
from stages.runtime.outputs import file_faults, folder_faults
from stages.tools.compare import _bootstrap as bootstrap
from stages.tools.compare import compare
from stages.tools.compare._report import LONGEST, MARKER, MOST, Report, as_markdown, as_text
from stages.tools.compare._revisions import Changes, open_revision
from tests.given import write_params

# ---- statistics


def clustered(rng, groups, effect):
    """Skewed differences `(n_rows,)`: few rows lose much; those of a group lose together."""
    clusters = np.repeat(np.arange(groups), np.minimum(rng.geometric(0.5, groups), 12))
    shared, own = rng.gamma(2, 0.5, groups)[clusters], rng.gamma(2, 0.5, len(clusters))
    return 0.15 * (shared + own - 2) + effect, clusters


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "effect"), [(0, 0.0), (1, 0.02)])
def test_interval_holds_the_truth_in_95_of_100_simulations(seed, effect):
    rng = np.random.default_rng(seed)
    found = [bootstrap.interval(*clustered(rng, 200, effect), 2000) for _ in range(1000)]
    held = np.mean([interval.low <= effect <= interval.high for interval in found])
    assert held == pytest.approx(0.95, abs=0.015)
    called = np.mean([interval.verdict in {"better", "worse"} for interval in found])
    wrong = np.mean([interval.verdict == "better" for interval in found])
    if effect == 0:
        assert called == pytest.approx(0.05, abs=0.015)
    else:
        assert called > 0.1
        assert wrong < 0.01


def test_fewer_resamples_give_the_same_interval():
    differences, clusters = clustered(np.random.default_rng(0), 200, 0.0)
    few, many = (bootstrap.interval(differences, clusters, n) for n in (2000, 10_000))
    width = many.high - many.low
    assert few.low == pytest.approx(many.low, abs=0.02 * width)
    assert few.high == pytest.approx(many.high, abs=0.02 * width)


def test_detectable_difference_is_found_in_four_of_five_repetitions():
    rng = np.random.default_rng(1)
    effects = [bootstrap.interval(*clustered(rng, 300, 0.0), 100).detectable for _ in range(50)]
    samples = (clustered(rng, 300, np.mean(effects)) for _ in range(200))
    found = [bootstrap.interval(*sample, 1000).verdict for sample in samples]
    assert found.count("worse") / 200 == pytest.approx(0.8, abs=0.06)


def test_interval_of_many_single_rows_is_that_of_students_t():
    differences = np.random.default_rng(0).normal(0.1, 1, 2000)
    found = bootstrap.interval(differences, np.arange(2000))
    low, high = stats.t.interval(0.95, 1999, differences.mean(), stats.sem(differences))
    assert (found.low, found.high) == (pytest.approx(low, abs=3e-3), pytest.approx(high, abs=3e-3))
    assert found.verdict == "worse"
    assert found.detectable == pytest.approx(2.8 * stats.sem(differences), rel=1e-3)


def test_copies_of_rows_in_their_group_do_not_narrow_the_interval():
    differences = np.random.default_rng(0).normal(0.1, 1, 300)
    once = bootstrap.interval(differences, np.arange(300))
    twice = bootstrap.interval(np.repeat(differences, 2), np.repeat(np.arange(300), 2))
    assert (twice.low, twice.high) == (pytest.approx(once.low), pytest.approx(once.high))


def test_resamples_in_batches_are_multinomial_counts_over_groups(monkeypatch):
    whole = judging.resampled_sums(np.eye(20), 1000)
    monkeypatch.setattr(judging, "BATCH", 64)  # three resamples at a time
    counts = judging.resampled_sums(np.eye(20), 1000)
    np.testing.assert_array_equal(counts, whole)
    assert counts.shape == (1000, 20)
    assert set(counts.sum(axis=1)) == {20}
    assert counts.mean(axis=0) == pytest.approx(np.ones(20), abs=0.15)
    assert counts.var() == pytest.approx(0.95, abs=0.05)


def test_exchanged_sides_exchange_the_verdict():
    differences, clusters = clustered(np.random.default_rng(0), 100, 0.5)
    there, back = (bootstrap.interval(sign * differences, clusters) for sign in (1, -1))
    assert (there.verdict, back.verdict) == ("worse", "better")
    assert (back.low, back.high) == (pytest.approx(-there.high), pytest.approx(-there.low))


@pytest.mark.parametrize(("rows", "verdict"), [(0, "same"), (9, "undecided")])
def test_few_differing_groups_get_no_interval(rows, verdict):
    differences = np.where(np.arange(500) < rows, -1.0, 0.0)
    found = bootstrap.interval(differences, np.arange(500))
    assert (found.low, found.high, found.detectable) == (None, None, None)
    assert (found.verdict, found.difference) == (verdict, -rows / 500)


def test_outputs_replace_no_folder(tmp_path):
    (tmp_path / "docs").mkdir()
    assert file_faults(tmp_path / "new.md") == folder_faults(tmp_path / "docs") == []
    (tmp_path / "docs/kept").touch()
    with pytest.raises(InputError) as caught:
        compare.main("HEAD", markdown_out=tmp_path / "docs", plots_out=tmp_path / "docs")
    assert "docs: is a folder; expected the name of a file" in str(caught.value)
    assert "docs: is there already; expected a new folder" in str(caught.value)


def test_groups_of_both_sides_are_joined():
    left = np.array([7, 7, 8, 9, 9, 3])
    right = np.array(["a", "b", "b", "c", "d", "e"])
    assert compare.joined_groups(left, right).tolist() == [0, 0, 0, 1, 1, 2]


def table(ids, losses, groups=None):
    return pd.DataFrame({"id": ids, "group": range(len(ids)) if groups is None else groups}).assign(
        loss=np.asarray(losses, np.float32)
    )


def test_rows_are_joined_by_id_and_those_of_one_side_are_counted():
    before = table(["x", "y", "z"], [1, 2, 3])
    after = table(["w", "z", "y", "u", "v"], [9, 4, 2.5, 9, 9])
    found = compare.compare_losses("demo", "svm", before, after)
    assert (found.rows, found.groups, found.only_before, found.only_after) == (2, 2, 1, 3)
    assert (found.before, found.after, found.interval.difference) == (2.5, 3.25, 0.75)
    assert compare.compare_losses("demo", "svm", before, after.iloc[[0, 3]]) is None


# ---- revisions


def git(*words):
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


IDENTITY = ("-c", "user.name=T", "-c", "user.email=t@example.org")
N = 60


def write_side(folder, *, ids=None, shift=0.0, classes=("a", "b"), models=("svm", "mlp")):
    rng = np.random.default_rng(0)
    names = [f"row {i}" for i in range(N)] if ids is None else ids
    for model in models:
        losses = rng.exponential(size=len(names)) + (shift if model == "svm" else 0)
        noise = rng.normal(0, 0.1, len(names)) * (shift != 0 and model == "svm")
        write_losses(table(names, losses + noise), folder / f"metrics/losses/demo/{model}.parquet")
        report = pd.DataFrame({"class": [*classes, *classes], "part": "oof"})
        (folder / "metrics/classes/demo").mkdir(parents=True, exist_ok=True)
        report.to_csv(folder / f"metrics/classes/demo/{model}.csv", index=False)
    wall = [1.0 + (model == "svm") * shift for model in models]
    board = {"dataset": "demo", "model": models, "rows": N, "wall_seconds": wall}
    write_table(pd.DataFrame(board | {"cpu_seconds": 2.0}), folder / "metrics/leaderboard.csv")
    write_params(folder, "demo", svm={"C": 0.5 + shift, "parts": ["a|b"]})


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A commit without losses, `main` with two models, and a workspace in which svm is worse."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/svm.py").write_text("1\n")
    (tmp_path / "params.yaml").write_text("datasets: [demo]\n")
    (tmp_path / "dvc.lock").write_text(
        "stages: {split@demo: {outs: [{path: data/demo/folds.parquet, md5: old}]}}\n"
    )
    git("add", "-A")
    git(*IDENTITY, "commit", "-q", "-m", "first")
    write_side(tmp_path)
    git("add", "-A")
    git(*IDENTITY, "commit", "-q", "-m", "second")
    write_side(tmp_path, shift=0.25)
    return tmp_path


def test_report_says_what_got_worse_and_what_changed(repository):
    (repository / "stages/svm.py").write_text("2\n3\n")
    (repository / "stages/new.py").write_text("4\n")
    (repository / "dvc.lock").write_text(
        "stages: {split@demo: {outs: [{path: data/demo/folds.parquet, md5: new}]}}\n"
    )
    compare.main("main", markdown_out=repository / "c.md", json_out=repository / "c.json")
    found = json.loads((repository / "c.json").read_text())
    verdicts = {entry["model"]: entry["interval"]["verdict"] for entry in found["comparisons"]}
    assert verdicts == {"svm": "worse", "mlp": "same"}
    assert found["changes"] == {
        "params": {"params/demo.yaml:svm.C": ["0.5", "0.75"]},
        "code": {"stages/svm.py": "+2 -1", "stages/new.py": "new, not in Git"},
        "data": ["data/demo/folds.parquet"],
        "cost": {"demo/svm": {"wall_seconds": [1.0, 1.25]}},
    }
    lines = (repository / "c.md").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == [MARKER, "", "### 1 worse, 1 same"]
    (row,) = (line for line in lines if line.startswith("| `svm` |"))
    assert row.startswith("| `svm` | 60 | 60 | 0 / 0 |")
    assert row.endswith(" | worse |")
    assert "- The same loss in every shared row: `demo/mlp`." in lines
    assert "| `demo/svm` | `1.0 → 1.25` |" in lines


def test_any_two_revisions_are_compared_whatever_the_workspace_holds(repository, capsys):
    git("add", "-A")
    git(*IDENTITY, "commit", "-q", "-m", "third")
    git("tag", "v3")
    first, third = git("rev-parse", "HEAD~1"), git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{first[:2]}/{first[2:]}/exp", third)  # as DVC keeps experiments
    for file in (repository / "metrics/losses/demo").iterdir():
        file.unlink()
    for before, after in (("main~1", "v3"), ("HEAD~1", "exp"), (first, third)):
        compare.main(before, after)
        assert "1 worse, 1 same" in capsys.readouterr().out
    compare.main("exp", "main~1")
    assert "1 better, 1 same" in capsys.readouterr().out


def test_same_revisions_give_the_same_bytes(repository):
    for name in ("one", "two"):
        compare.main("main", markdown_out=repository / name, json_out=repository / f"{name}.json")
    assert (repository / "one").read_bytes() == (repository / "two").read_bytes()
    assert (repository / "one.json").read_bytes() == (repository / "two.json").read_bytes()


def test_models_of_one_side_and_without_shared_rows_are_listed(repository, capsys):
    (repository / "metrics/losses/demo/mlp.parquet").rename(
        repository / "metrics/losses/demo/lgbm.parquet"
    )
    compare.main("main")
    printed = capsys.readouterr().out
    assert "\nOnly in main (" in printed
    assert "): demo/mlp.\nOnly in workspace: demo/lgbm.\n" in printed
    git("checkout", "-q", "metrics")
    write_losses(table(["other"], [1.0]), repository / "metrics/losses/demo/mlp.parquet")
    compare.main("main")
    assert "\nNo shared rows: demo/mlp.\n" in capsys.readouterr().out


def test_model_that_judged_no_row_is_not_there(repository, capsys):
    write_losses(table(["x"], [1]).iloc[:0], repository / "metrics/losses/demo/mlp.parquet")
    compare.main("main")
    assert "): demo/mlp.\n" in capsys.readouterr().out


def test_text_columns_are_aligned(repository):
    text = as_text(compare.compare(open_revision("main"), open_revision(None))).splitlines()
    head = text.index("demo") + 1
    assert text[head].startswith("model  rows  groups  only before / after  before")
    assert text[head + 1].startswith("svm      60      60                0 / 0  ")
    assert len(text[head]) == len(text[head + 1])


@pytest.mark.parametrize("revision", ["nowhere", "deadbee"])
def test_unknown_revision_is_refused(repository, revision):
    with pytest.raises(InputError, match=rf"^{revision}: unknown Git .*; expected a branch"):
        compare.main(revision)
    with pytest.raises(InputError, match=rf"^{revision}: unknown"):
        compare.main("main", revision)


def test_revision_without_losses_is_refused(repository):
    with pytest.raises(InputError, match=r"^main~1 \(.{7}\): got no losses in metrics/losses; exp"):
        compare.main("main~1")


def test_folder_without_git_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"main: .* is not a git repository"):
        compare.main("main")


def test_all_reasons_against_a_comparison_are_listed(repository):
    write_side(repository, ids=[f"other {i}" for i in range(N)], classes=("a", "b", "tie"))
    expected = (
        r"workspace cannot be compared:\n"
        r"  demo/mlp: labels: got \['a', 'b'\] and \['a', 'b', 'tie'\]; expected the same\n"
        r"  demo/svm: labels: .*\n"
        r"  demo: no common rows; expected ids of the same data$"
    )
    with pytest.raises(InputError, match=expected):
        compare.main("main")


def test_no_common_model_is_refused(repository):
    git("rm", "-q", "-r", "-f", "metrics")
    write_side(repository, models=["forest"])
    with pytest.raises(InputError, match="got demo/mlp, demo/svm and demo/forest; exp"):
        compare.main("main")


def test_damaged_losses_are_refused(repository):
    (repository / "metrics/losses/demo/svm.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"workspace: metrics/losses/demo/svm.parquet: cannot be"):
        compare.main("main")


def test_bad_input_ends_with_its_message_and_status_1(repository):
    done = subprocess.run(
        [sys.executable, "-m", "stages.tools.compare.compare", "nowhere"],
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: unknown Git revision")


def test_long_lists_and_hostile_names_stay_short_and_text():
    params = {f"params/demo.yaml:{i}": ("a|`b`\n@all", "x" * 500) for i in range(1000)}
    report = Report("main", "workspace", [], {}, Changes(params, {}, [], {}))
    text = as_markdown(report)
    assert text.count("\n| `params/demo.yaml:") == MOST
    assert f"… and {1000 - MOST} more." in text
    assert f"| `a\\|'b' @all` | `{'x' * (LONGEST - 1)}…` |" in text
