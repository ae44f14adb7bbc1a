"""The learning-forgetting plane: for the page by plotly, as pictures by `figures.py`."""

import html
import json
from pathlib import Path

import plotly.graph_objects as go

from active_reading.eval.changes import Json, Point, Score, points_of
from active_reading.eval.figures import write_plane
from active_reading.eval.tradeoff import pareto_front
from active_reading.eval.words import learned_most, typeset

# Okabe and Ito's colours, which colour-blind readers tell apart; the blue is lifted to be legible on black.
METHOD_COLOURS = {None: "#808080", "full": "#d55e00", "lora": "#2f86d1", "memory": "#009e73"}
OTHER_COLOUR = "#8a6fb0"
DATA_SYMBOLS = {None: "square", "naive": "circle-open", "augmented": "circle"}
MEASURES = [
    ("F1", "f1", "F1 on the gold questions"),
    ("Answer NLL", "answer_gain", "fall of the gold answers' NLL, nats"),
]


def measures(points: list[Point]) -> list[tuple[str, str, str]]:
    """Name, field and title of each measure of learning; the verdict's own measure comes first."""
    best = learned_most(points)
    return sorted(MEASURES, key=lambda measure: best is not None and measure[1] != best.field)


def plane(points: list[Point], field: str, title: str) -> Json | None:
    """The learning-forgetting plane as a plotly figure: one trace a method, naive joined to augmented."""
    figure = go.Figure(layout={"template": "none", "xaxis": {"title": f"learned: {title}"}})
    points = drawable(points, field)
    best = sorted(
        (getattr(points[place], field).value, points[place].loss.value) for place in on_front(points, field)
    )
    figure.add_scatter(
        mode="lines",
        x=[learned for learned, _ in best],
        y=[lost for _, lost in best],
        line={"color": "#888888", "width": 1.5},
        hoverinfo="skip",
    )
    for method in dict.fromkeys(point.method for point in points):
        mine = [point for point in points if point.method == method]
        gains: list[Score] = [getattr(point, field) for point in mine]
        names = [html.escape(point.name) for point in mine]
        words = [f"{title} {gain}<br>forgot {p.loss.signed()}" for gain, p in zip(gains, mine, strict=True)]
        colour = METHOD_COLOURS.get(method, OTHER_COLOUR)
        figure.add_scatter(
            mode="lines+markers+text",
            cliponaxis=False,
            x=[gain.value for gain in gains],
            y=[point.loss.value for point in mine],
            error_x={"array": [gain.se or 0 for gain in gains], "thickness": 1, "width": 0},
            error_y={"array": [point.loss.se or 0 for point in mine], "thickness": 1, "width": 0},
            marker={"color": colour, "size": 12, "line": {"width": 2, "color": colour}},
            marker_symbol=[DATA_SYMBOLS.get(point.data, "diamond") for point in mine],
            line={"color": colour, "width": 1, "dash": "dot"},
            text=names,
            customdata=[point.name for point in mine],
            hovertext=[f"<b>{n}</b><br>{typeset(w)}" for n, w in zip(names, words, strict=True)],
            hoverinfo="text",
        )
    return json.loads(figure.to_json()) if any(point.method for point in points) else None


def drawable(points: list[Point], field: str) -> list[Point]:
    return [point for point in points if getattr(point, field).value is not None and point.loss.value is not None]


def on_front(points: list[Point], field: str) -> list[int]:
    """Places of the points that no other one beats at learning without forgetting more."""
    return pareto_front([(getattr(point, field).value, point.loss.value or 0.0) for point in points])


def write_figures(results: Json, folder: Path) -> None:
    """The plane as a picture, as the page shows it at first."""
    for _, field, title in measures(points_of(results)):
        points = drawable(points_of(results), field)
        if any(point.method for point in points):
            drawn = [
                {
                    "name": point.name,
                    "x": getattr(point, field).value,
                    "y": point.loss.value,
                    "x_error": getattr(point, field).se or 0,
                    "y_error": point.loss.se or 0,
                    "colour": METHOD_COLOURS.get(point.method, OTHER_COLOUR),
                    "filled": point.data != "naive",
                }
                for point in points
            ]
            write_plane(drawn, on_front(points, field), title, folder)
            return
