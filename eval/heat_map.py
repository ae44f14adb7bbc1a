"""Slot sharing drawn: the overlap of every two documents, as a plotly heat map."""

import html
import json
from pathlib import PurePosixPath

import plotly.graph_objects as go

from active_reading.eval.changes import Json

LONGEST_LABEL = 26  # characters
HUE = "0, 158, 115"  # memory's, from the page's own paper to full strength


def heat_map(sharing: Json) -> Json | None:
    """A figure of what `slot_sharing.slot_sharing` found; None of fewer than two documents."""
    names, below = sharing["documents"], sharing["overlap"]
    if len(names) < 2:
        return None
    places = range(len(names))
    figure = go.Figure(layout={"template": "none"})
    escaped = [html.escape(name) for name in names]
    figure.add_heatmap(
        x=escaped,
        y=escaped,
        z=[[None if a == b else below[max(a, b)][min(a, b)] for b in places] for a in places],
        colorscale=[[0, f"rgba({HUE}, 0.04)"], [1, f"rgba({HUE}, 1)"]],
        colorbar={
            "thickness": 10,
            "len": 0.6,
            "outlinewidth": 0,
            "title": {"text": "overlap"},
            "tickformat": ".2f",
        },
        hovertemplate="%{y}<br>%{x}<br>overlap %{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    figure.update_xaxes(type="category", showticklabels=False)
    labels = [html.escape(_short(name)) for name in names]
    figure.update_yaxes(type="category", tickvals=escaped, ticktext=labels, autorange="reversed", automargin=True)
    found: Json = json.loads(figure.to_json())
    return found


def _short(name: str) -> str:
    last = PurePosixPath(name).name or name
    return last if len(last) <= LONGEST_LABEL else f"{last[: LONGEST_LABEL - 1]}\u2026"
