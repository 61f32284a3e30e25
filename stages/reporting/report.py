"""A page to decide from: quality, cost, calibration, biases and the worst rows of all models.

In: what the other stages found of one dataset. Out: one HTML file that opens anywhere without a
network: charts are Vega-Lite with its library in the file, and the page's own policy forbids it to
load or send anything, or to run a script that is not its own, whatever stands in a prompt. Rows are
gathered before they are drawn; only the 20 worst of the final model stand in the page.

It names no commit: a page that did would differ in each, and the commit that it belongs to does not
exist yet when it is built. It shows the MD5 of its inputs, as dvc.lock does, and thus how to find
the commit.

    python -m stages.reporting.report --dataset demo
"""

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.build import judged_models
from stages.core.errors import InputError
from stages.core.folds import read_folds
from stages.core.layout import ENSEMBLE, LEARNING_CURVES, Layout
from stages.core.predictions import OOF
from stages.core.tables import atomic, read_json
from stages.core.tasks import Task, read_task
from stages.evaluation.scoring.measures import COSTS, MEASURES
from stages.evaluation.scoring.oof import (
    Longer,
    OofPredictions,
    Parts,
    by_slice,
    differences,
    length_bias,
    length_deciles,
    position_bias,
    read_oof,
    read_texts,
    shares_by_slice,
    slices,
)
from stages.evaluation.scoring.quality import (
    base_loss,
    gain,
    known_columns,
    plotted,
    standings,
    total_cost,
    worth,
)
from stages.reporting import _charts as charts
from stages.reporting._audits import findings, gains, seeds
from stages.reporting._prices import Prices, prices_of
from stages.reporting._texts import TEXTS
from stages.reporting._worst import Row, worst_rows
from stages.runtime.cli import run

log = logging.getLogger("verdict")

PAGE = Path(__file__).parent / "page"  # the template, its style and script
FIRST_COST = "cpu_seconds"  # that quality is plotted against
DIAGRAMS = 30  # classes that get a reliability diagram, those with most rows


@dataclass(frozen=True)
class Found:
    """What other stages wrote of one dataset."""

    scores: dict[str, dict[str, Any]]
    cost: dict[str, dict[str, Any]]
    classes: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame
    thresholds: dict[str, Any]
    weights: dict[str, Any]
    ingest: dict[str, Any]
    split: dict[str, Any]
    audit: dict[str, Any]
    cascade: dict[str, Any]
    cascades: pd.DataFrame
    curve: pd.DataFrame

    @property
    def prices(self) -> Prices:
        """What the parts of the cascade take, where there is one."""
        return prices_of(self.cascades["cheap"].iloc[0], self.cost, self.weights)


@dataclass(frozen=True)
class Looked:
    """The judged rows, and their losses by kinds of text."""

    judged: OofPredictions
    kinds: Mapping[str, pd.DataFrame]
    decile_of: str
    decile: Parts
    length: list[Longer]
    worst: list[Row]


def look(
    judged: OofPredictions, texts: pd.DataFrame, final: str, thresholds: Mapping[str, float]
) -> Looked:
    """What the page needs to know of the texts."""
    what, decile = length_deciles(judged.task, texts)
    kinds = {name: by_slice(judged, parts) for name, parts in slices(judged.task, texts).items()}
    return Looked(
        judged=judged,
        kinds={name: table for name, table in kinds.items() if final in set(table["model"])},
        decile_of=what,
        decile=decile,
        length=length_bias(judged, texts, final) if judged.task.symmetric else [],
        worst=worst_rows(judged, final, texts, thresholds),
    )


def read_csvs(paths: Mapping[str, Path], names: list[str]) -> pd.DataFrame:
    """The tables of all models, by model, with a column `model`; `names` are columns of text."""
    tables = [read_csv(path, names).assign(model=model) for model, path in paths.items()]
    return pd.concat(tables, ignore_index=True)


def read_curves(folder: Path) -> pd.DataFrame:
    """The learning curves of all models that have one, `<folder>/<model>.csv`; maybe no rows."""
    tables = [read_csv(path, ["model"]) for path in sorted(folder.glob("*.csv"))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def read_csv(path: Path, names: list[str]) -> pd.DataFrame:
    """A small table of metrics; what stands in the columns `names` stays text, also `nan`.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
    except (OSError, ValueError) as error:  # also of pandas' parser, and of what is no UTF-8
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error


def specs(looked: Looked, found: Found, final: str) -> dict[str, charts.Spec]:
    """The charts of the page by their names."""
    judged = looked.judged
    task = judged.task
    cost = total_cost(found.cost, found.weights, final)
    drawn = {
        "worth": charts.worth(
            worth(found.scores, cost, exclusive=task.exclusive),
            first_plotted(task),
            FIRST_COST,
        ),
        "confusion": charts.confusion(found.confusion, final),
        "weights": charts.weights(members(found.weights)),
        "deciles": charts.deciles(by_slice(judged, looked.decile), looked.decile_of, final),
    }
    for k, name in enumerate(diagrams(found.classes, final)):
        table = found.reliability[found.reliability["class"] == name].drop(columns="class")
        drawn[f"reliability-{k}"] = charts.reliability(table, f"Reliability of {name}", final)
    if task.symmetric:
        shares = shares_by_slice(judged, looked.decile)
        drawn["preferred"] = charts.preferred(shares, looked.decile_of, final)
    tables = list(looked.kinds.values())
    for k, table in enumerate(tables):
        drawn[f"slice-{k}"] = charts.sliced(table, loss_domain(tables), final)
    if len(found.cascades):
        prices = found.prices
        table = found.cascades.assign(ms_per_row=found.cascades["cheap_share"].map(prices.of))
        chosen = {key: found.cascade[key] for key in ("threshold", "cheap_share")}
        chosen |= {"log_loss": found.cascade["log_loss"]["cascade"]}
        chosen |= {"ms_per_row": prices.of(chosen["cheap_share"])}
        drawn["cascade"] = charts.cascade(table, chosen)
    if len(found.curve):
        drawn["curve"] = charts.learning_curve(found.curve)
    return drawn


def first_plotted(task: Task) -> str:
    """The measure that is plotted against cost until the reader chooses another."""
    return "log_loss" if task.symmetric else "macro_f1"


def loss_domain(tables: list[pd.DataFrame]) -> tuple[float, float]:
    """What the losses span, with their errors: one axis for all kinds of slices."""
    both = pd.concat(tables)
    error = both["error"].fillna(0)
    values = pd.concat([both["loss"] - error, both["loss"] + error, both["base"]])
    margin = 0.05 * (values.max() - values.min())
    return float(values.min() - margin), float(values.max() + margin)


def members(weights: Mapping[str, Any]) -> pd.DataFrame:
    """Columns `model, weight, loss` of the members of the ensemble."""
    return pd.DataFrame(
        [
            (name, weight, weights["member_log_loss"][name])
            for name, weight in weights["weight"].items()
        ],
        columns=["model", "weight", "loss"],
    )


def diagrams(classes: pd.DataFrame, final: str) -> list[str]:
    """The classes that get a diagram, in their order."""
    own = classes[(classes["model"] == final) & (classes["part"] == OOF)]
    largest = set(own.nlargest(DIAGRAMS, "rows")["class"])
    return [name for name in own["class"] if name in largest]


def class_tables(classes: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The lines of the table of classes by model."""
    return {
        str(model): charts.records(table[table["part"] == OOF])
        for model, table in classes.groupby("model", sort=False)
    }


def inputs(paths: list[Path]) -> list[dict[str, str]]:
    """Path and MD5 of input files, as dvc.lock has them."""
    return [
        {
            "path": path.as_posix(),
            "md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
        }
        for path in paths
    ]


def context(looked: Looked, found: Found, final: str) -> dict[str, Any]:
    """What the template shows beside the charts."""
    judged = looked.judged
    ranked = standings(judged, found.scores, found.cost)
    singles = [standing.model for standing in ranked if standing.model != final]
    apart = differences(judged, final)
    known = known_columns("page", found.scores, exclusive=judged.task.exclusive)
    return {
        "task": judged.task,
        "lead": TEXTS[judged.task.kind].lead,
        "final": final,
        "standings": ranked,
        "own": next(standing for standing in ranked if standing.model == final),
        "single": singles[0] if singles else None,
        "apart": apart[singles[0]] if singles else None,
        "gain": gain(judged, final),
        "base_loss": base_loss(judged, final),
        "n_judged": len(judged.ids),
        "measures": MEASURES,
        "quality": [column for column in known if column.key != "log_loss"],  # has its own column
        "plotted": plotted(found.scores, exclusive=judged.task.exclusive),
        "first_plotted": first_plotted(judged.task),
        "costs": COSTS,
        "first_cost": FIRST_COST,
        "classes": class_tables(found.classes),
        "diagrams": diagrams(found.classes, final),
        "decile_of": looked.decile_of,
        "slices": list(looked.kinds),
        "position": position_bias(judged) if judged.task.symmetric else [],
        "length": looked.length,
        "audits": [*findings(found.audit, found.scores[final], final), *seeds(found.curve)],
        "gains": gains(found.audit).to_dict(orient="records"),
        "cascade": found.cascade,
        "cheap": found.cascades["cheap"].iloc[0] if len(found.cascades) else "",
        "prices": found.prices if len(found.cascades) else None,
        "members": len(members(found.weights)),
        "weights": found.weights,
        "ingest": {k: v for k, v in found.ingest.items() if k != "share"},  # the classes' table
        "split": found.split,
        "has_curve": bool(len(found.curve)),
        "worst": looked.worst,
    }


def render(page: Path, drawn: Mapping[str, charts.Spec], shown: Mapping[str, Any]) -> str:
    """The page, from `page.html`, `page.css` and `page.js` in the folder `page`."""
    import vl_convert
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = (page / "page.js").read_text(encoding="utf-8")
    style = (page / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(page),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": fixed, "signed": signed, "count": count, "percent": percent, "safe_json": safe_json
    }  # fmt: skip
    return environment.get_template("page.html").render(
        shown,
        specs=drawn,
        library=library,
        script=script,
        style=style,
        script_hashes=[digest(library), digest(script)],
        style_hash=digest(style),
    )


def digest(text: str) -> str:
    """The hash by which the page's policy allows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def safe_json(value: Any) -> str:
    """JSON that can stand in a script element: no character in it ends or begins a tag."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(escaped)  # noqa: S704 - escaped in the line above


def fixed(value: float, digits: int = 4) -> str:
    """A number with so many digits, and a true minus."""
    return f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """A difference: always with its sign, but none for what rounds to 0."""
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return text[1:] if not text.strip("+−0.,") else text


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def percent(value: float, digits: int = 1) -> str:
    """A share in per cent."""
    return f"{100 * value:.{digits}f}%".replace("-", "−")


def read_found(layout: Layout, models: list[str], final: str) -> Found:
    """Read what the other stages wrote of the models.

    Raises:
        InputError: A file is missing or damaged.
    """

    def tables(path: Callable[[str], Path], names: list[str]) -> pd.DataFrame:
        return read_csvs({model: path(model) for model in models}, names)

    return Found(
        scores={model: read_json(layout.scores(model)) for model in models},
        cost={model: read_json(layout.cost(model)) for model in models},
        classes=tables(layout.classes, ["class", "part"]),
        confusion=tables(layout.confusion, ["actual", "predicted"]),
        reliability=tables(layout.reliability, ["class"]),
        thresholds=read_json(layout.thresholds(final)),
        weights=read_json(layout.weights),
        ingest=read_json(layout.ingest),
        split=read_json(layout.split),
        audit=read_json(layout.audit),
        cascade=read_json(layout.cascade),
        cascades=read_csv(layout.cascade_curve, ["cheap"]),
        curve=read_curves(layout.root / LEARNING_CURVES / layout.dataset),
    )


def build(layout: Layout, models: list[str], final: str) -> str:
    """The page of `models`; `final` is the one that is looked at more closely.

    Raises:
        InputError: A file is missing or damaged, or `final` judged no row.
    """
    task = read_task(layout.labels)
    judged = read_oof(task, read_folds(layout.folds, task), layout, models)
    predictions = layout.predictions(final)
    if final not in judged.probabilities:
        raise InputError(f"{predictions}: got no row predicted out of fold")
    found = read_found(layout, list(judged.probabilities), final)
    looked = look(judged, read_texts(task, layout.rows, judged.ids), final, found.thresholds)
    shown = context(looked, found, final) | {
        "dataset": layout.dataset,
        "params": layout.used_params.read_text(encoding="utf-8"),
        "params_file": layout.used_params.as_posix(),
        "inputs": inputs([layout.rows, layout.folds, predictions, layout.params]),
    }
    return render(PAGE, specs(looked, found, final), shown)


def main(*, dataset: str) -> None:
    """Write the page of one dataset."""
    layout = Layout(dataset)
    html = build(layout, judged_models(layout), ENSEMBLE)
    with atomic(layout.report) as temporary:
        temporary.write_text(html, encoding="utf-8")
    log.info("report: %s, %.2f MB", layout.report, len(html.encode()) / 1e6)


if __name__ == "__main__":
    run(main)
