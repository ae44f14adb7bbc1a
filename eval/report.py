"""The report: measured numbers in, one page that a person can open from disk out.

In:  `results`, the plain dict that the evaluate stage gathers (corpus, generator, student, templates, models,
     questions, examples, stages). None stands for a number that was not measured.
Out: `index.html` (self-contained: it forbids itself the network), `results.json`, `summary.md`.

Not covered: measuring anything. A difference takes its two sides as independent, which overstates its error
when both models answered the same questions; the page says so.
"""

import html
import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

Json = dict[str, Any]

# Okabe and Ito's colours, which colour-blind readers tell apart; the blue is lifted to be legible on black.
METHOD_COLOURS = {None: "#808080", "full": "#d55e00", "lora": "#2f86d1", "memory": "#009e73"}
OTHER_COLOUR = "#8a6fb0"
DATA_SYMBOLS = {None: "square", "naive": "circle-open", "augmented": "circle"}
METRICS = {"f1": "F1", "exact_match": "Exact match", "answer_nll": "Answer NLL", "nll": "NLL"}
HIGHER_IS_BETTER = {"f1", "exact_match"}
ERROR_NOTE = "+- is one standard error over questions, from one run with one seed."


class Score(NamedTuple):
    """A mean and its standard error; either may be unknown."""

    value: float | None
    se: float | None = None

    def __str__(self) -> str:
        return self.signed("")

    def signed(self, sign: str = "+") -> str:
        error = "" if self.se is None else f" +- {self.se:.3f}"
        return "-" if self.value is None else f"{self.value:{sign}.3f}{error}"

    def is_clear(self) -> bool:
        """More than two standard errors away from zero."""
        return self.value is not None and self.se is not None and abs(self.value) > 2 * self.se


class Point(NamedTuple):
    """A model on the learning-forgetting plane."""

    name: str
    data: str | None
    method: str | None
    f1: Score
    answer_gain: Score  # fall of the NLL of the gold answers, against the base
    loss: Score  # mean rise of NLL over the retention sets, against the base


def write_report(results: Json, folder: Path) -> Path:
    """Write the page, the numbers and the markdown summary into `folder`; answer the path of the page."""
    results = finite(results)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(summary_markdown(results), encoding="utf-8")
    index = folder / "index.html"
    index.write_text(render_page(results), encoding="utf-8")
    return index


def finite(value: Any) -> Any:
    """The same structure in plain JSON types, with None for NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Scores


def measured(model: Json | None, name: str, key: str) -> Score:
    """One metric of one set: 'learning' (the gold questions) or a retention set."""
    sets = ((model or {}).get("retention") or {}) | {"learning": (model or {}).get("learning")}
    block = sets.get(name) or {}
    return Score(block.get(key), block.get(f"{key}_se"))


def difference(left: Score, right: Score) -> Score:
    if left.value is None or right.value is None:
        return Score(None)
    se = None if left.se is None or right.se is None else math.hypot(left.se, right.se)
    return Score(left.value - right.value, se)


def base_of(models: list[Json]) -> Json | None:
    """The untrained model: the one without a method."""
    return next((model for model in models if model["method"] is None), None)


def forgetting(model: Json, base: Json | None) -> Score:
    """Mean rise of NLL over every retention set that the base was measured on."""
    keys = [(name, key) for name in (base or {}).get("retention") or {} for key in ("answer_nll", "nll")]
    keys = [key for key in keys if measured(base, *key).value is not None]
    changes = [difference(measured(model, *key), measured(base, *key)) for key in keys]
    values = [change.value for change in changes if change.value is not None]
    errors = [change.se for change in changes if change.se is not None]
    # A mean over fewer sets than the other models have would not be comparable with theirs.
    if not keys or len(values) < len(keys):
        return Score(None)
    se = math.hypot(*errors) / len(keys) if len(errors) == len(keys) else None
    return Score(sum(values) / len(keys), se)


def points_of(models: list[Json]) -> list[Point]:
    base, points = base_of(models), []
    for model in models:
        gain = difference(measured(base, "learning", "answer_nll"), measured(model, "learning", "answer_nll"))
        scores = [measured(model, "learning", "f1"), gain, forgetting(model, base)]
        if model is base:  # the origin, which has no error against itself
            scores[1:] = [Score(score.value) for score in scores[1:]]
        points.append(Point(model["name"], model["data"], model["method"], *scores))
    return points


# Words


def verdict(points: list[Point]) -> str:
    """One sentence: who learned most, what that cost, whether augmented data helped."""
    before = next((point.f1 for point in points if point.method is None), Score(None))
    trained = [point for point in points if point.method is not None and point.f1.value is not None]
    if not trained:
        return "No trained model has been measured."
    best = max(trained, key=lambda point: point.f1.value or 0)
    gain = difference(best.f1, before)
    if gain.is_clear() and (gain.value or 0) > 0:
        learned = f"{best.name} learned most, F1 {best.f1} against {before.value:.3f} for the base"
    elif gain.value is None:
        learned = f"{best.name} scores highest, F1 {best.f1}"
    else:
        learned = f"No model clearly learned: the best, {best.name}, has F1 {best.f1} against {before} before"
    return "; ".join(filter(None, [learned, lost_clause(best.loss), data_clause(trained)])) + "."


def lost_clause(loss: Score) -> str:
    if loss.value is None:
        return "what it forgot was not measured"
    change = f"NLL on older knowledge changed by {loss.signed()} nats"
    if loss.is_clear():
        return f"it forgot: {change}" if loss.value > 0 else f"it forgot nothing: {change}"
    return f"{change}, too little to tell from none"


def data_clause(trained: list[Point]) -> str:
    """On how many methods augmented data beat naive data; the best model of each pair counts."""
    f1 = {(p.method, p.data): p.f1 for p in sorted(trained, key=lambda p: p.f1.value or 0)}
    methods = [method for method, data in f1 if data == "augmented" and (method, "naive") in f1]
    gains = [difference(f1[method, "augmented"], f1[method, "naive"]) for method in methods]
    won = [gain for gain in gains if (gain.value or 0) > 0]
    count = f"{len(won)} of {len(gains)} methods ({sum(gain.is_clear() for gain in won)} clearly)"
    return f"augmented data beat naive data on F1 for {count}" if gains else ""


def extremes(points: list[Point]) -> list[tuple[str, str, str]]:
    """The numbers to see first: label, model, value."""
    trained = [point for point in points if point.method is not None]
    learned = sorted(filter(lambda p: p.f1.value is not None, trained), key=lambda p: p.f1.value or 0)
    lost = sorted(filter(lambda p: p.loss.value is not None, trained), key=lambda p: p.loss.value or 0)
    rows = [("Learned most, F1", point.name, str(point.f1)) for point in learned[-1:]]
    rows += [("Forgot least, NLL", point.name, point.loss.signed()) for point in lost[:1]]
    return rows + [("Forgot most, NLL", point.name, point.loss.signed()) for point in lost[1:][-1:]]


def typeset(text: str) -> str:
    """Typographic signs in place of ASCII ones; a hyphen inside a name stays one."""
    return "\u2013" if text == "-" else re.sub(r"(?<!\w)-(?=\d)", "\u2212", text.replace("+-", "\u00b1"))


def plain(value: Any) -> str:
    """Any setting or count as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "\u2013" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def duration(seconds: float | None) -> str:
    if seconds is None or seconds < 60:
        return "\u2013" if seconds is None else f"{seconds:.1f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"


def summary_cells(results: Json) -> list[list[str]]:
    """A header, then one row a model."""
    base = base_of(results["models"])
    header = ["model", "data", "method", "F1", "EM", "answer NLL"]
    rows = [header + ["general F1", "change", "general NLL", "change"]]
    for model in results["models"]:
        row = [model["name"], model["data"] or "-", model["method"] or "-"]
        row += [str(measured(model, "learning", key)) for key in ("f1", "exact_match", "answer_nll")]
        for key in (("general_questions", "f1"), ("general_text", "nll")):
            now, before = measured(model, *key), measured(base, *key)
            row += [str(now), "-" if model is base else difference(now, before).signed()]
        rows.append(row)
    return rows


def summary_table(results: Json) -> str:
    """The models as an aligned plain-text table for the terminal."""
    rows = summary_cells(finite(results))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def summary_markdown(results: Json) -> str:
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in summary_cells(results))
    lines = [f"# {results['study']}", "", verdict(points_of(results["models"])), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", f"{ERROR_NOTE} Changes are against the base.", ""])


# The page


def plane(points: list[Point], field: str, title: str) -> Json | None:
    """The learning-forgetting plane as a plotly figure: one trace a method, naive joined to augmented."""
    figure = go.Figure(layout={"template": "none", "xaxis": {"title": f"learned: {title}"}})
    points = [p for p in points if getattr(p, field).value is not None and p.loss.value is not None]
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
            hovertext=[f"<b>{n}</b><br>{typeset(w)}" for n, w in zip(names, words, strict=True)],
            hoverinfo="text",
        )
    return json.loads(figure.to_json()) if any(point.method for point in points) else None


def score_columns(models: list[Json]) -> list[tuple[str, str]]:
    """(set, metric) for every score that any model has; the gold questions come first."""
    columns = [("learning", key) for key in ("f1", "exact_match", "answer_nll")]
    for model in models:
        sets = (model["retention"] or {}).items()
        columns += [(name, key) for name, block in sets for key in METRICS if key in (block or {})]
    return list(dict.fromkeys(columns))


def score_cell(model: Json, base: Json | None, name: str, key: str) -> Json:
    """The score; for what was known before, its change too, and whether that is clearly for the worse."""
    now, change = measured(model, name, key), Score(None)
    if name != "learning" and model is not base:
        change = difference(now, measured(base, name, key))
    worse = change.is_clear() and ((change.value or 0) < 0) == (key in HIGHER_IS_BETTER)
    return {"score": str(now), "change": change.signed(), "worse": worse}


def render_page(results: Json) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader)
    jinja.filters |= {"plain": plain, "duration": duration, "typeset": typeset}
    models, points = results["models"], points_of(results["models"])
    base, columns = base_of(models), score_columns(models)
    charts = {
        "F1": plane(points, "f1", "F1 on the gold questions"),
        "Answer NLL": plane(points, "answer_gain", "fall of the gold answers' NLL, nats"),
    }
    return jinja.get_template("report.html.j2").render(
        results=results,
        created=datetime.fromisoformat(results["created"]).strftime("%d %B %Y, %H:%M %Z").strip(),
        verdict=verdict(points),
        extremes=extremes(points),
        charts={name: chart for name, chart in charts.items() if chart},
        plotly_script=get_plotlyjs() if any(charts.values()) else "",
        colours={point.method: METHOD_COLOURS.get(point.method, OTHER_COLOUR) for point in points},
        metrics=METRICS,
        columns=columns,
        rows=[(model, [score_cell(model, base, *c) for c in columns]) for model in models],
        reasons=sorted({reason for row in results["templates"] for reason in row["dropped"]}),
        error_note=ERROR_NOTE,
    )
