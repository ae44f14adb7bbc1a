"""Scaling: what was learned over the tokens that it took, one curve for each kind of data and method."""

import html
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from active_reading.eval.changes import Json, points_of
from active_reading.eval.plane import METHOD_COLOURS, OTHER_COLOUR, measures

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


class Trained(NamedTuple):
    """A trained model: its data, method and tokens, and what it learned with one standard error (or 0)."""

    data: str
    method: str
    tokens: int
    learned: float
    error: float


def scaling(results: Json) -> Json | None:
    """The figure of a study's models, by the verdict's measure of learning."""
    points = points_of(results)
    for _, field, title in measures(points):
        pairs = zip(results["models"], points, strict=True)
        known = [(model, getattr(point, field)) for model, point in pairs if model["method"] and model["train"]]
        trained = [
            Trained(model["data"], model["method"], model["train"]["tokens"], score.value, score.se or 0.0)
            for model, score in known
            if score.value is not None and model["train"]["tokens"]
        ]
        if trained:
            return scaling_figure(trained, title)
    return None


def scaling_figure(models: Sequence[Trained], learned: str) -> Json | None:
    """A plotly figure over tokens (logarithmic); None unless some kind of data and method has two sizes.

    Models that differ otherwise (in seed or rate) are one point: their mean, whose error is their spread's where
    there are several, else that of the one.
    """
    curves: dict[tuple[str, str], dict[int, list[Trained]]] = {}
    for model in models:
        curves.setdefault((model.data, model.method), {}).setdefault(model.tokens, []).append(model)
    if all(len(sizes) < 2 for sizes in curves.values()):
        return None
    axis = {"title": "tokens trained on", "type": "log"}
    figure = go.Figure(layout={"template": "none", "xaxis": axis, "yaxis": {"title": f"learned: {learned}"}})
    kinds = list(dict.fromkeys(data for data, _ in curves))
    for (data, method), sizes in curves.items():
        points = [_mean(size, same) for size, same in sorted(sizes.items())]
        figure.add_scatter(
            mode="lines+markers",
            name=html.escape(f"{data}, {method}"),
            x=[point.tokens for point in points],
            y=[point.learned for point in points],
            error_y={"array": [point.error for point in points], "thickness": 1, "width": 0},
            line={
                "color": METHOD_COLOURS.get(method, OTHER_COLOUR),
                "dash": DASHES[kinds.index(data) % len(DASHES)],
            },
        )
    found: Json = json.loads(figure.to_json())
    return found


def _mean(tokens: int, same: list[Trained]) -> Trained:
    mean = sum(model.learned for model in same) / len(same)
    if len(same) == 1:
        return same[0]
    spread = sum((model.learned - mean) ** 2 for model in same) / (len(same) - 1)
    return Trained(same[0].data, same[0].method, tokens, mean, math.sqrt(spread / len(same)))
