"""The learning-forgetting plane as a picture for papers and pull requests: PNG and SVG, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_plane(points: Sequence[dict[str, Any]], front: Sequence[int], learned: str, folder: Path) -> None:
    """Write `plane.png` and `plane.svg`.

    A point has `name`, `x` and `y` with `x_error` and `y_error` (one standard error, or 0), `colour` and `filled`.
    `front` are the places of the points on the Pareto front.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    best = sorted((points[place]["x"], points[place]["y"]) for place in front)
    axes.plot(*zip(*best, strict=True), color="#999999", linewidth=1, zorder=1) if best else None
    for point in points:
        face = point["colour"] if point["filled"] else "white"
        bars = {"xerr": point["x_error"], "yerr": point["y_error"], "elinewidth": 0.8}
        axes.errorbar(
            point["x"], point["y"], fmt="o", color=point["colour"], markerfacecolor=face, zorder=2, **bars
        )
        # Dollar signs are a formula to matplotlib, and names may hold them.
        name = point["name"].replace("$", r"\$")
        axes.annotate(name, (point["x"], point["y"]), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.axhline(0, color="#cccccc", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"learned: {learned}")
    axes.set_ylabel("forgot: rise of NLL, nats")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "plane.png", dpi=150)
    figure.savefig(folder / "plane.svg", metadata={"Date": None})
