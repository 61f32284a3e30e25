"""The charts of the report, as Vega-Lite. Colours and fonts are the page's: no spec names any.

Marks of the style `quiet` are the background that others are compared with. Where a chart has the
parameter `model`, the page sets it to the model that is shown.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Spec: TypeAlias = dict[str, Any]

DIGITS = 5  # of numbers in a chart
FEWEST = 20  # rows of a bin that a line goes through
SHOWN = {"filter": "datum.model === model"}
ROW = 26  # pixels
PLACES = (-14, 20, -30, 36)  # of names above and below points: neighbours get different ones
LABELLED = 10  # classes up to which the cells of a confusion matrix hold numbers
PERCENT = {"format": "%"}
LOOSE = {"zero": False}


def quantity(field: str, title: str | None = None, **more: Any) -> Spec:
    """A numeric channel."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def name(field: str, title: str | None = None, **more: Any) -> Spec:
    """A channel of names."""
    return {"field": field, "type": "nominal", "title": title, **more}


def tips(**formats: str) -> list[Spec]:
    """The tooltip: fields with their formats, `""` for names; `__` in a title is a space."""
    return [
        {"field": field, "title": title.replace("_", " ")}
        | ({"type": "quantitative", "format": form} if form else {"type": "nominal"})
        for title, given in formats.items()
        for field, form in [given.split(" ")]
    ]


def layers(table: pd.DataFrame, about: str, *marks: Spec, height: int, **params: str) -> Spec:
    """Marks over one another, as wide as the page gives room; `params` with their first values."""
    return {
        "description": about,
        "width": "container",
        "height": height,
        "params": [{"name": key, "value": value} for key, value in params.items()],
        "data": {"values": records(table)},
        "layer": list(marks),
    }


def mark(kind: str, encoding: Spec, *transform: Spec, **look: Any) -> Spec:
    """One layer."""
    return {
        "mark": {"type": kind, **look},
        "encoding": encoding,
        "transform": list(transform),
    }


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for a chart: five digits of every number, and null for NaN."""
    return [
        {str(key): _short(value) for key, value in line.items()}
        for line in table.to_dict(orient="records")
    ]


def _short(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def worth(table: pd.DataFrame, quality: str, cost: str) -> Spec:
    """Quality against cost, the Pareto front joined; the page sets `quality` and `cost`."""
    chosen = {"filter": "datum.quality === quality && datum.cost === cost"}
    x = quantity("spent", scale={"type": "log", "padding": 36, "nice": False}, axis={
        "tickCount": 5, "format": "~g", "grid": False})  # fmt: skip
    y = quantity("value", scale=LOOSE | {"padding": 22})
    bounds = {"x": x, "y": quantity("low"), "y2": {"field": "high"}}
    points = {
        "x": x,
        "y": y,
        "fillOpacity": {"condition": {"test": "datum.front", "value": 1}, "value": 0.2},
        "shape": {"condition": {"test": "datum.whole", "value": "circle"}, "value": "diamond"},
        "tooltip": tips(
            model="model ", quality="value .4f", cost="spent ,.4~g", judged_rows="rows ,",
            on_the_front="front ",
        ),
    }  # fmt: skip
    rank = table.groupby(["quality", "cost"])["spent"].rank(method="first").astype(int)
    place = np.array(PLACES)[rank % len(PLACES)]
    return layers(
        table.assign(place=place), "Quality of each model against its cost",
        mark("line", {"x": x, "y": y}, chosen, {"filter": "datum.front"},
             interpolate="step-after", style="quiet"),
        mark("rule", bounds, chosen),
        mark("point", points, chosen, size=90, filled=True, strokeWidth=2, style="dot"),
        mark("text", {"x": x, "y": y, "text": {"field": "model"}}, chosen,
             dy={"expr": "datum.place"}, fontWeight=600, style="ink"),
        height=340, quality=quality, cost=cost,
    )  # fmt: skip


def reliability(table: pd.DataFrame, about: str, first: str) -> Spec:
    """How often a class was right, by the probability that it was given."""
    table = table.drop(columns="error").assign(
        low=(table["actual"] - table["error"]).clip(0, 1),
        high=(table["actual"] + table["error"]).clip(0, 1),
    )
    scale = {"domain": [0, 1], "nice": False}
    axis = PERCENT | {"values": [0, 0.25, 0.5, 0.75, 1]}
    x = quantity("predicted", "predicted", scale=scale, axis=axis)
    y = quantity("actual", "actual", scale=scale, axis=axis)
    size = quantity("rows", legend=None, scale={"range": [12, 160]})
    shown = tips(predicted="predicted .1%", actual="actual .1%", rows="rows ,")
    ideal = mark("line", {"x": quantity("at"), "y": quantity("at")},
                 style="quiet", strokeDash=[4, 4])  # fmt: skip
    return layers(
        table, about,
        ideal | {"data": {"values": [{"at": 0}, {"at": 1}]}},
        mark("line", {"x": x, "y": y}, SHOWN, {"filter": f"datum.rows >= {FEWEST}"}),
        mark("rule", {"x": x, "y": quantity("low"), "y2": {"field": "high"}}, SHOWN),
        mark("circle", {"x": x, "y": y, "size": size, "tooltip": shown}, SHOWN, opacity=1),
        height=210, model=first,
    )  # fmt: skip


def confusion(table: pd.DataFrame, first: str) -> Spec:
    """Which class was taken for which, as shares of the actual class."""
    names = list(dict.fromkeys(table["actual"]))
    few = len(names) <= LABELLED
    axis = {"labelLimit": 110, "domain": False, "ticks": False}
    cell = {
        "x": name("predicted", "given", sort=names, scale={"domain": names},
                  axis=axis | {"labelAngle": 0 if few else -90}),
        "y": name("actual", "actual", sort=names, scale={"domain": names}, axis=axis),
        "tooltip": tips(actual="actual ", given="predicted ", rows="rows ,", share="share .1%"),
    }  # fmt: skip
    colour = {"color": quantity("share", legend=None, scale={"domain": [0, 1]})}
    text = {"text": {"field": "share", "type": "quantitative", "format": ".0%"}}
    numbers = [mark("text", cell | text, SHOWN, style="ink")] if few else []
    return layers(
        table[table["rows"] > 0], "Confusion matrix",
        mark("rect", cell | colour, SHOWN, style="cell"), *numbers,
        height=max(150, len(names) * (56 if len(names) < 5 else 34 if few else 17)), model=first,
    )  # fmt: skip


def deciles(table: pd.DataFrame, what: str, first: str) -> Spec:
    """Mean log loss by decile, with that of the class shares."""
    x = _decile(table, what)
    shown = {"tooltip": _loss_tips()}
    return layers(
        _spread(table, "loss"), f"Log loss by {what}",
        mark("tick", {"x": x, "y": quantity("base")} | shown, SHOWN,
             style="quiet", thickness=2, width=18, orient="horizontal"),
        mark("rule", {"x": x, "y": quantity("low"), "y2": {"field": "high"}}, SHOWN),
        mark("circle", {"x": x, "y": quantity("loss", "log loss", scale=LOOSE)} | shown, SHOWN,
             size=70, opacity=1),
        height=300, model=first,
    )  # fmt: skip


def preferred(table: pd.DataFrame, what: str, first: str) -> Spec:
    """How often A is preferred by decile: people and the model."""
    x = _decile(table, what)
    y = quantity("actual", "A is preferred", scale=LOOSE, axis=PERCENT)
    shown = tips(difference="label ", people="actual .1%", model="predicted .1%", rows="rows ,")
    return layers(
        _spread(table, "actual"), f"How often A is preferred by {what}",
        mark("line", {"x": x, "y": quantity("predicted")}, SHOWN),
        mark("rule", {"x": x, "y": quantity("low"), "y2": {"field": "high"}}, SHOWN,
             style="people"),
        mark("circle", {"x": x, "y": y, "tooltip": shown}, SHOWN, size=70, opacity=1,
             style="people"),
        height=300, model=first,
    )  # fmt: skip


def sliced(table: pd.DataFrame, domain: tuple[float, float], first: str) -> Spec:
    """Mean log loss of each slice of one kind, with that of the class shares."""
    scale = {"domain": list(domain), "zero": False, "nice": False, "clamp": True}
    y = name("label", sort=_order(table), axis={"labelLimit": 150, "ticks": False})
    shown = {"tooltip": _loss_tips()}
    x = quantity("loss", "log loss", scale=scale, axis={"tickCount": 4})
    return layers(
        _spread(table, "loss"), "Log loss by slice",
        mark("tick", {"x": quantity("base"), "y": y} | shown, SHOWN,
             style="quiet", thickness=2, height=14),
        mark("rule", {"x": quantity("low"), "x2": {"field": "high"}, "y": y}, SHOWN),
        mark("circle", {"x": x, "y": y} | shown, SHOWN, size=70, opacity=1),
        height=ROW * len(_order(table)), model=first,
    )  # fmt: skip


def weights(table: pd.DataFrame) -> Spec:
    """The weight of each member of the ensemble; those of a product may exceed 1."""
    table = table.sort_values("weight", ascending=False, kind="stable")
    y = name("model", sort=table["model"].tolist(), axis={"ticks": False})
    longest = max([1.0, *table["weight"].tolist()])
    x = quantity("weight", "weight", axis={"tickCount": 5}, scale={"domain": [0, longest]})
    shown = tips(model="model ", weight="weight .3f", its_own_log_loss="loss .4f")
    text = {"text": {"field": "weight", "type": "quantitative", "format": ".3f"}}
    return layers(
        table, "Weights of the members of the ensemble",
        mark("bar", {"x": x, "y": y, "tooltip": shown}, height=14),
        mark("text", {"x": x, "y": y} | text, align="left", dx=6, style="ink"),
        height=ROW * len(table),
    )  # fmt: skip


def learning_curve(table: pd.DataFrame) -> Spec:
    """Log loss by the number of training rows."""
    table = _spread(table.rename(columns={"log_loss_standard_error": "error"}), "log_loss")
    x = quantity(
        "rows", "training rows", scale={"type": "log", "nice": False, "padding": 16},
        axis={"format": "~s", "tickCount": 5},
    )  # fmt: skip
    y = quantity("log_loss", "log loss", scale=LOOSE)
    colour = {"color": name("model", legend={"orient": "top"})}
    shown = tips(model="model ", training_rows="rows ,.0f", log_loss="log_loss .4f",
                 macro_F1="macro_f1 .3f")  # fmt: skip
    return layers(
        table[["model", "rows", "log_loss", "macro_f1", "low", "high"]],
        "Log loss by the number of training rows",
        mark("line", {"x": x, "y": y} | colour),
        mark("rule", {"x": x, "y": quantity("low"), "y2": {"field": "high"}} | colour),
        mark("circle", {"x": x, "y": y, "tooltip": shown} | colour, size=60, opacity=1),
        height=320,
    )  # fmt: skip


def cascade(table: pd.DataFrame, chosen: Mapping[str, float]) -> Spec:
    """Log loss against cost at all thresholds, and what the chosen one came to (nested)."""
    x = quantity("ms_per_row", "milliseconds per row", scale=LOOSE, axis={"tickCount": 5})
    y = quantity("log_loss", "log loss", scale=LOOSE)
    shown = tips(
        milliseconds_per_row="ms_per_row ,.4~g", log_loss="log_loss .4f",
        answered_by_the_cheap_model="cheap_share .0%", threshold="threshold .3f",
    )  # fmt: skip
    point = {"data": {"values": records(pd.DataFrame([chosen]))}}
    return layers(
        table, "Log loss of the cascade against its cost",
        mark("line", {"x": x, "y": y, "order": quantity("cheap_share")}, style="quiet"),
        mark("circle", {"x": x, "y": y, "tooltip": shown}, size=60, opacity=1),
        mark("point", {"x": x, "y": y, "tooltip": shown}, size=260, strokeWidth=2.5,
             style="people", filled=False) | point,
        height=300,
    )  # fmt: skip


def _decile(table: pd.DataFrame, what: str) -> Spec:
    axis = {"labelAngle": -40, "labelLimit": 130, "ticks": False, "labelOverlap": False}
    return name("label", what, sort=_order(table), axis=axis)


def _order(table: pd.DataFrame) -> list[str]:
    return [str(label) for label in table.sort_values("order", kind="stable")["label"].unique()]


def _spread(table: pd.DataFrame, column: str) -> pd.DataFrame:
    error = table["error"].fillna(0)
    return table.assign(low=table[column] - error, high=table[column] + error)


def _loss_tips() -> list[Spec]:
    return tips(
        slice="label ", rows="rows ,", log_loss="loss .4f", standard_error="error .4f",
        class_shares_alone="base .4f",
    )  # fmt: skip
