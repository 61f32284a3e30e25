"""What two Git revisions, experiments or the workspace hold, and what changed between them."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from ruamel.yaml import YAML

from stages.core.errors import InputError
from stages.core.layout import LEADERBOARD, PARAMS, Layout
from stages.core.tables import flatten
from stages.evaluation.scoring.measures import COSTS

CODE = ("stages", "dvc.yaml", "constraints.txt")


@dataclass(frozen=True)
class Revision:
    """The files of a commit, or of the workspace (`commit` None)."""

    label: str
    commit: str | None
    fs: Any  # of fsspec: Git's, or the folder's

    def files(self, pattern: Path) -> list[str]:
        """All paths that match a pattern (`metrics/losses/*/*.parquet`), in order."""
        return sorted(self.fs.glob(pattern.as_posix()))

    def read(self, path: str) -> bytes:
        """The content of a file."""
        try:
            content: bytes = self.fs.cat_file(path)
        except FileNotFoundError:
            raise InputError(f"{self.label}: {path}: file not found in this revision") from None
        return content

    def tree(self, path: str) -> dict[str, Any]:
        """The content of a YAML file; empty where it is missing."""
        if not self.fs.exists(path):
            return {}
        content: dict[str, Any] = YAML(typ="safe").load(self.read(path).decode())
        return content


Pair: TypeAlias = tuple[Any, Any]  # before and after; None where it is not there


@dataclass(frozen=True)
class Changes:
    """What differs between two sides, each by its name."""

    params: dict[str, Pair]  # by <file>:<key>
    code: dict[str, str]  # lines by file
    data: list[str]
    cost: dict[str, dict[str, Pair]]  # by <dataset>/<model>


def changes(before: Revision, after: Revision, datasets: list[str]) -> Changes:
    """What changed that can explain a difference; params and data of these datasets only."""
    return Changes(
        changed_params(before, after, datasets),
        changed_code(before, after),
        changed_data(before, after, datasets),
        changed_cost(before, after),
    )


def open_revision(name: str | None) -> Revision:
    """A branch, tag, commit or experiment of the repository here; None: the workspace."""
    from dvc.scm import SCM, SCMError, resolve_rev
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    if name is None:
        return Revision("workspace", None, DirFileSystem(str(Path.cwd()), LocalFileSystem()))
    try:
        scm = SCM(".")
        commit = resolve_rev(scm, name)
    except SCMError as error:
        raise InputError(
            f"{name}: {error}; expected a branch, tag, commit or experiment of this repository "
            "(a shallow clone has not all: `git fetch --unshallow`)"
        ) from error
    label = commit[:7] if commit.startswith(name) else f"{name} ({commit[:7]})"
    return Revision(label, commit, scm.get_fs(commit))


def changed_code(before: Revision, after: Revision) -> dict[str, str]:
    """Files of code with the lines that were added and removed, as `git diff --stat` counts."""
    ends = [side.commit for side in (before, after) if side.commit]
    found = _git("diff", "--numstat", "--no-renames", "-z", *ends, "--", *CODE)
    lines = (entry.split("\t") for entry in found)
    changed = {path: f"+{added} -{removed}" for added, removed, path in lines}
    if after.commit is None:
        new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
        changed |= dict.fromkeys(new, "new, not in Git")
    return changed


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return [entry for entry in done.stdout.split("\0") if entry]


def changed_params(before: Revision, after: Revision, datasets: list[str]) -> dict[str, Pair]:
    """Values of params.yaml and of the params files of `datasets` that differ."""
    changed: dict[str, Pair] = {}
    for file in [PARAMS, *(Layout(dataset).params for dataset in datasets)]:
        path = file.as_posix()
        old, new = (
            {key: str(value) for key, value in flatten(side.tree(path)).items()}
            for side in (before, after)
        )
        changed |= {f"{path}:{key}": pair for key, pair in differing(old, new).items()}
    return changed


def changed_data(before: Revision, after: Revision, datasets: list[str]) -> list[str]:
    """Rows and folds of `datasets` whose content differs, by what dvc.lock knows of them."""
    layouts = map(Layout, datasets)
    paths = {file.as_posix() for layout in layouts for file in (layout.rows, layout.folds)}
    old, new = (
        {out["path"]: out["md5"] for out in _outs(side) if out["path"] in paths}
        for side in (before, after)
    )
    return list(differing(old, new))


def _outs(side: Revision) -> Iterator[dict[str, Any]]:
    for stage in side.tree("dvc.lock").get("stages", {}).values():
        yield from stage.get("outs", [])


def changed_cost(before: Revision, after: Revision) -> dict[str, dict[str, Pair]]:
    """Costs on the leaderboard that differ, of models that both sides have."""
    old, new = costs(before), costs(after)
    changed = {name: differing(old[name], new[name]) for name in sorted(old.keys() & new.keys())}
    return {name: pairs for name, pairs in changed.items() if pairs}


def costs(side: Revision) -> dict[str, dict[str, float]]:
    """What each model on the leaderboard takes, by <dataset>/<model>; nothing without one."""
    path = LEADERBOARD.as_posix()
    if not side.fs.exists(path):
        return {}
    names = ["dataset", "model"]
    text = dict.fromkeys(names, str)
    table = pd.read_csv(BytesIO(side.read(path)), dtype=text, keep_default_na=False)
    known = [measure.key for measure in COSTS if measure.key in table]
    return {
        f"{line['dataset']}/{line['model']}": {key: line[key] for key in known}
        for line in table[[*names, *known]].to_dict(orient="records")
    }


def name_of(path: str) -> tuple[str, str]:
    """The dataset and the model whose file `<kind>/<dataset>/<model>.<suffix>` this is."""
    return Path(path).parent.name, Path(path).stem


def differing(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Pair]:
    """The values that are not the same, by key, new keys last."""
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
