"""What the workflows do, on disk: a bare repository, a DVC remote, branches, clones without cache.

The steps are those of .github/workflows/, word for word; the stages `score` and `leaderboard` are
those of dvc.yaml. Two quick models stand in for the real ones.
"""

import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.tools.compare._report import MARKER
from tests.test_repro import Project, ran

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
MODELS = ["svm", "mlp"]
MERGE = (
    "git checkout --ours dvc.lock metrics && dvc repro"
    " && git add dvc.lock metrics && git commit --no-edit"
)
ROWS = """
import json, os
import numpy as np
import pandas as pd
os.makedirs("data/demo", exist_ok=True)
rng = np.random.default_rng(0)
truth = rng.dirichlet([2, 2, 2], 300)
y = (truth.cumsum(axis=1) < rng.random((300, 1))).sum(axis=1)
rows = pd.DataFrame({"id": [f"row {i}" for i in range(300)]})
rows.assign(**{f"share_{c}": truth[:, k] for k, c in enumerate(["a", "b", "tie"])}).to_parquet(
    "data/demo/rows.parquet")
folds = rows.assign(part="train", fold=np.arange(300) % 3, group=np.arange(300) // 2)
folds[["y_a", "y_b", "y_tie"]] = np.eye(3)[y]
folds.to_parquet("data/demo/folds.parquet")
with open("data/demo/labels.json", "w") as file:
    json.dump({"kind": "preference", "classes": ["a", "b", "tie"]}, file)
"""
MODEL = """
import json, os, sys
import numpy as np
import pandas as pd
from ruamel.yaml import YAML
model = sys.argv[1]
for folder in ("data/demo/predictions", "metrics/cost/demo"):
    os.makedirs(folder, exist_ok=True)
rows = pd.read_parquet("data/demo/rows.parquet")
if model == "ensemble":
    sharpness = 0.0
    tables = [pd.read_parquet(f"data/demo/predictions/{member}.parquet") for member in sys.argv[2:]]
    p = np.mean([table[["p_a", "p_b", "p_tie"]].to_numpy() for table in tables], axis=0)
else:
    with open("params/demo.yaml") as file:
        sharpness = YAML(typ="safe").load(file)[model]["sharpness"]
    p = rows[["share_a", "share_b", "share_tie"]].to_numpy() ** sharpness
    p /= p.sum(axis=1, keepdims=True)
table = rows[["id"]].assign(part="oof")
table[["p_a", "p_b", "p_tie"]], table[["swapped_p_a", "swapped_p_b", "swapped_p_tie"]] = (
    p, p[:, [1, 0, 2]])
table.to_parquet(f"data/demo/{'' if model == 'ensemble' else 'predictions/'}{model}.parquet")
with open(f"metrics/cost/demo/{model}.json", "w") as file:
    keys = ["cpu_seconds", "peak_memory_mb", "fitted_size_mb", "predict_ms_per_row"]
    json.dump({"wall_seconds": sharpness} | dict.fromkeys(keys, 1.0), file)
"""


def read(name):
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text(encoding="utf-8"))


def pipeline():
    """A stage that makes rows, two models, their mean, and the real ones that score them."""
    real = read("dvc.yaml")["stages"]
    predictions = "data/demo/predictions"
    return {
        "rows": {
            "cmd": "python rows.py",
            "deps": ["rows.py"],
            "outs": [f"data/demo/{name}" for name in ("rows.parquet", "folds.parquet")]
            + ["data/demo/labels.json"],
        },
        "model": {
            "matrix": {"model": MODELS},
            "cmd": "python model.py ${item.model}",
            "deps": ["model.py", "data/demo/rows.parquet"],
            "params": [{"params/demo.yaml": ["${item.model}"]}],
            "outs": [
                f"{predictions}/${{item.model}}.parquet",
                "metrics/cost/demo/${item.model}.json",
            ],
        },
        "ensemble": {
            "cmd": f"python model.py ensemble {' '.join(MODELS)}",
            "deps": ["model.py", *(f"{predictions}/{model}.parquet" for model in MODELS)],
            "outs": ["data/demo/ensemble.parquet", "metrics/cost/demo/ensemble.json"],
        },
        "score": real["score"],
        "leaderboard": real["leaderboard"],
    }


def clone(of: Path, to: Path) -> Project:
    project = Project(to)
    Project(of).git("clone", "-q", str(of), str(to))
    return project


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A bare repository with the branches `main`, `sharper` (svm), `blunter` (mlp) and `stale`."""
    top = tmp_path_factory.mktemp("pull-request")
    author = Project(top / "author")
    ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
    for folder in ("stages", ".github", ".dvc"):
        shutil.copytree(ROOT / folder, author.folder / folder, ignore=ignored)
    for file in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / file, author.folder)
    for name, text in {"rows.py": ROWS, "model.py": MODEL}.items():
        (author.folder / name).write_text(text, encoding="utf-8")
    yaml = YAML()
    yaml.dump({"stages": pipeline()}, author.folder / "dvc.yaml")
    groups = {"linear": ["svm"], "dense": ["mlp"], "latent": [], "backbones": []}
    curves = {"datasets": [], "models": []}
    built = {"datasets": ["demo"], "build": groups, "learning_curves": curves}
    yaml.dump(built, author.folder / "params.yaml")
    (author.folder / "params").mkdir()
    yaml.dump({model: {"sharpness": 0.5} for model in MODELS}, author.folder / "params/demo.yaml")
    (top / "origin").mkdir()
    Project(top / "origin").git("init", "-q", "--bare", "-b", "main")
    author.git("init", "-q", "-b", "main")
    author.git("remote", "add", "origin", str(top / "origin"))
    assert author.run("dvc", "remote", "add", "-d", "store", str(top / "store"))[0] == 0
    publish(author, "main")
    for branch, model, sharpness in (("sharper", "svm", 0.8), ("blunter", "mlp", 0.2)):
        author.git("checkout", "-q", "-b", branch, "main")
        author.set_params({f"{model}.sharpness": sharpness})
        publish(author, branch)
    author.git("checkout", "-q", "-b", "stale", "sharper")
    author.set_params({"svm.sharpness": 0.9})
    publish(author, "stale", built=False)
    return top / "origin"


def publish(project: Project, branch: str, *, built: bool = True) -> None:
    """Build, commit and push a branch and its data."""
    if built:
        project.repro()
    project.git("add", "-A")
    project.git("commit", "-q", "-m", branch)
    status, output = project.run("dvc", "push", "--run-cache")
    assert status == 0, output
    project.git("push", "-q", "origin", branch)


def steps():
    """The commands of the job, and its environment, as GitHub would fill it in."""
    job = read(".github/workflows/pull-request.yml")["jobs"]["compare"]
    assert job["env"] == {"BASE": "origin/${{ github.base_ref }}"}
    return {step["name"]: step["run"] for step in job["steps"] if "name" in step}


def run_job(origin: Path, folder: Path, branch: str, base: str = "main"):
    """Check out as the workflow does and run its steps; statuses and the comment."""
    project = clone(origin, folder)
    project.git("checkout", "-q", "--detach", f"origin/{base}")
    project.git("merge", "-q", "--no-ff", "-m", "merge", f"origin/{branch}")
    project.environment |= {
        "BASE": f"origin/{base}", "GITHUB_RUN_ID": "7", "GITHUB_REPOSITORY": "us/verdict",
        "GITHUB_SERVER_URL": "https://github.com", "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }  # fmt: skip
    gate, report = project.run("bash", "-e", "-c", steps()["gate"])
    project.environment["GATE"] = "failure" if gate else "success"
    compared, _ = project.run("bash", "-e", "-c", steps()["compare"])
    assert not (folder / ".dvc/cache").exists()
    comment = (folder / "out/comment.md").read_text(encoding="utf-8")
    assert (folder / "summary").read_text(encoding="utf-8") == comment
    return gate, report, compared, comment


def test_comment_says_what_a_branch_made_better(origin, tmp_path):
    gate, report, compared, comment = run_job(origin, tmp_path / "clone", "sharper")
    assert (gate, compared) == (0, 0), report
    lines = comment.splitlines()
    assert lines[0] == MARKER
    assert "### 2 better, 1 same" in lines
    (row,) = (line for line in lines if line.startswith("| `svm` |"))
    assert row.startswith("| `svm` | 300 | 150 | 0 / 0 | ")
    assert row.endswith(" | better |")
    assert "- The same loss in every shared row: `demo/mlp`." in lines
    assert "| `params/demo.yaml:svm.sharpness` | `0.5` | `0.8` |" in lines
    assert "| `demo/svm` | `0.5 → 0.8` |" in lines
    plots = "https://github.com/us/verdict/actions/runs/7#artifacts"
    assert lines[-1] == f"4 plots as images: [artifact `plots`]({plots})."
    images = sorted((tmp_path / "clone/out/plots").iterdir())
    assert [image.name for image in images] == [
        "classes-demo-ensemble.png", "classes-demo-svm.png",
        "reliability-demo-ensemble.png", "reliability-demo-svm.png",
    ]  # fmt: skip
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)


def test_stale_lock_fails_the_gate_and_the_comment_says_so(origin, tmp_path):
    gate, report, compared, comment = run_job(origin, tmp_path / "clone", "stale")
    assert (gate, compared) == (255, 0)
    assert "dvc.lock is stale: run 'dvc repro'" in report
    assert "\n**dvc.lock is stale**: " in comment


def test_stale_stage_that_needs_no_data_fails_the_gate_too(origin, tmp_path):
    """`dvc repro --dry` itself ends with 0 there."""
    project = clone(origin, tmp_path / "clone")
    project.edit("rows.py", "default_rng(0)", "default_rng(1)")
    assert project.run("dvc", "repro", "--dry", "--allow-missing", "rows")[0] == 0
    assert project.run("bash", "-e", "-c", steps()["gate"])[0] == 255


def test_comment_says_why_nothing_is_compared(origin, tmp_path):
    project = clone(origin, tmp_path / "old")
    project.git("rm", "-q", "-r", "metrics/losses")
    project.git("commit", "-q", "-m", "before there were any")
    project.git("push", "-q", "origin", "HEAD:old")
    folder = tmp_path / "clone"
    project = clone(origin, folder)
    project.environment["BASE"] = "origin/old"
    status, _ = project.run("bash", "-e", "-c", steps()["compare"])
    comment = (folder / "out/comment.md").read_text(encoding="utf-8")
    assert status == 1
    assert comment.startswith(f"{MARKER}\n### Not compared\n\n```\nerror: origin/old (")
    assert "got no losses in metrics/losses" in comment


def test_branches_that_touch_different_models_merge_as_the_readme_says(origin, tmp_path):
    project = Project(origin.parent / "author").copy_to(tmp_path)
    project.git("checkout", "-q", "sharper")
    assert project.run("dvc", "checkout")[0] == 0
    status, output = project.run("git", "merge", "blunter")
    assert status != 0, output
    assert MERGE in (ROOT / "README.md").read_text(encoding="utf-8")
    status, output = project.run("bash", "-e", "-c", MERGE)
    assert status == 0, output
    # the other branch's model comes from the run cache; DVC keeps no stage there that has an out
    # with `cache: false`, as score has
    assert ran(output) == ["ensemble", "score@demo", "leaderboard"]
    assert project.repro() == []
    for branch, model, sharpness in (("sharper", "svm", 0.8), ("blunter", "mlp", 0.2)):
        path = f"metrics/losses/demo/{model}.parquet"
        project.git("diff", "--exit-code", branch, "HEAD", "--", path)
        cost = json.loads((project.folder / f"metrics/cost/demo/{model}.json").read_text())
        assert cost["wall_seconds"] == sharpness


# ---- the comment

GH = """#!{python}
import json, re, sys
from pathlib import Path
store = Path({store!r})
comments = json.loads(store.read_text())
assert sys.argv[1] == "api"
path, options = sys.argv[2], sys.argv[3:]
if path.startswith("repos/us/verdict/pulls?"):
    assert path == "repos/us/verdict/pulls?state=open&head=me%3Afix%23%261", path
    print(json.dumps([{{"number": 5, "head": {{"sha": "abc"}}}}]))
elif options[:1] == ["--paginate"]:
    assert path == "repos/us/verdict/issues/5/comments?per_page=100"
    print(json.dumps([comments[:1], comments[1:]]))
else:
    body = json.load(sys.stdin)["body"]
    if options[1] == "POST":
        assert path == "repos/us/verdict/issues/5/comments"
        bot = {{"login": "github-actions[bot]"}}
        comments.append({{"id": len(comments), "user": bot, "body": body}})
    else:
        assert options[1] == "PATCH"
        comments[int(re.fullmatch("repos/us/verdict/issues/comments/(.*)", path)[1])]["body"] = body
    store.write_text(json.dumps(comments))
    print("{{}}")
"""


@pytest.fixture
def commented(tmp_path):
    """Runs the command of comment.yml where `gh` is a stub; the comments after it."""
    store = tmp_path / "comments.json"
    stranger = {"id": 0, "user": {"login": "me"}, "body": f"{MARKER} mine"}
    store.write_text(json.dumps([stranger]))
    gh = tmp_path / "bin/gh"
    gh.parent.mkdir()
    gh.write_text(GH.format(python=sys.executable, store=str(store)), encoding="utf-8")
    gh.chmod(gh.stat().st_mode | stat.S_IXUSR)
    (steps,) = (job["steps"] for job in read(".github/workflows/comment.yml")["jobs"].values())
    (command,) = (step["run"] for step in steps if "run" in step)
    project = Project(tmp_path)
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    project.environment["PATH"] = f"{gh.parent}{os.pathsep}{project.environment['PATH']}"
    project.environment |= {"GITHUB_REPOSITORY": "us/verdict", "HEAD": "me:fix#&1", "SHA": "abc"}
    (tmp_path / "out").mkdir()

    def run(text, **environment):
        (tmp_path / "out/comment.md").write_text(text, encoding="utf-8")
        project.environment |= environment
        status, output = project.run("bash", "-e", "-c", command)
        return status, output, [comment["body"] for comment in json.loads(store.read_text())]

    return run


def test_comment_is_added_once_and_then_updated(commented):
    for text in (f"{MARKER}\none", f"{MARKER}\ntwo"):
        status, output, bodies = commented(text)
        assert status == 0, output
        assert bodies == [f"{MARKER} mine", text]


def test_run_of_an_older_commit_does_not_comment(commented):
    status, output, bodies = commented(f"{MARKER}\none", SHA="older")
    assert (status, len(bodies)) == (0, 1)
    assert "a later run comments" in output


@pytest.mark.parametrize("text", ["hello", MARKER + "x" * 65_536])
def test_text_that_is_no_report_is_not_posted(commented, text):
    status, output, bodies = commented(text)
    assert (status, len(bodies)) == (1, 1)
    assert "expected <!-- verdict: compare --> first" in output


def test_workflows_have_no_more_rights_than_they_need():
    rights = {"ci": "contents", "pull-request": "contents"}
    for name, right in rights.items():
        workflow = read(f".github/workflows/{name}.yml")
        assert workflow["permissions"] == {right: "read"}
        assert all("permissions" not in job for job in workflow["jobs"].values())
    comment = read(".github/workflows/comment.yml")
    assert comment["permissions"] == {}
    (job,) = comment["jobs"].values()
    assert job["permissions"] == {"actions": "read", "contents": "read", "pull-requests": "write"}
    assert comment["on"]["workflow_run"]["workflows"] == [
        read(".github/workflows/pull-request.yml")["name"]
    ]
