"""The report: measured numbers in, one page that a person can open from disk out.

In:  `results`, the plain dict that the evaluate stage gathers (corpus, generator, student, templates, models,
     comparisons, questions, examples, stages). None stands for a number that was not measured.
Out: `index.html` (self-contained: it forbids itself the network), `results.json`, `summary.md`, and the plane as
`plane.png` and `plane.svg`.

Not covered: measuring anything. A change between two models is the mean over items of what each item changed by
(`paired.py`).
"""

import base64
import functools
import gzip
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

from active_reading.eval.figures import write_plane
from active_reading.eval.paired import mean_of_differences
from active_reading.eval.scaling import Trained, scaling_figure
from active_reading.eval.tradeoff import matched_rows, pareto_front

Json = dict[str, Any]

# Okabe and Ito's colours, which colour-blind readers tell apart; the blue is lifted to be legible on black.
METHOD_COLOURS = {None: "#808080", "full": "#d55e00", "lora": "#2f86d1", "memory": "#009e73"}
OTHER_COLOUR = "#8a6fb0"
DATA_SYMBOLS = {None: "square", "naive": "circle-open", "augmented": "circle"}
METRICS = {"f1": "F1", "exact_match": "Exact match", "answer_nll": "Answer NLL", "nll": "NLL"}
TASK_METRICS = {"acc": "Accuracy", "acc_norm": "Accuracy, by length", "nll_per_byte": "NLL per byte"}
LEAST_SHOWN = 10  # documents of the smallest coverage
HIGHER_IS_BETTER = ("f1", "exact_match", "acc")  # and what begins so
PLANES = {
    "F1": ("f1", "F1 on the gold questions"),
    "Answer NLL": ("answer_gain", "fall of the gold answers' NLL, nats"),
}
ERROR_NOTE = "+- is one standard error over questions, from one run with one seed."


class Score(NamedTuple):
    """A mean, its standard error, and of a change the bounds of its 95 % interval; each may be unknown."""

    value: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return self.signed("")

    def signed(self, sign: str = "+") -> str:
        error = "" if self.se is None else f" +- {self.se:.3f}"
        return "-" if self.value is None else f"{self.value:{sign}.3f}{error}"

    def is_clear(self) -> bool:
        """A change whose 95 % interval holds no zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def reversed(self) -> "Score":
        """The change the other way round."""
        value, low, high = (None if number is None else -number for number in (self.value, self.high, self.low))
        return Score(value, self.se, low, high)


class Point(NamedTuple):
    """A model on the learning-forgetting plane."""

    name: str
    data: str | None
    method: str | None
    f1: Score
    f1_gain: Score  # rise of F1 against the base
    answer_gain: Score  # fall of the NLL of the gold answers, against the base
    loss: Score  # mean rise of NLL over the retention sets, against the base


def write_report(results: Json, folder: Path) -> Path:
    """Write the page, the numbers and the markdown summary into `folder`; answer the path of the page."""
    results = finite(results)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {key: value for key, value in results.items() if key != "samples"}  # every model's folder has its own
    text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(summary_markdown(results), encoding="utf-8")
    write_figures(results, folder)
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


def compared(results: Json, after: Json, before: Json | None) -> Json:
    """What changed from one model to another, by set; nothing when the two were not compared."""
    names = ((before or {}).get("name"), after["name"])
    return next((each["sets"] for each in results["comparisons"] if (each["before"], each["after"]) == names), {})


def change(results: Json, after: Json, before: Json | None, name: str, key: str) -> Score:
    """How one metric of one set changed from one model to another."""
    block = compared(results, after, before).get(name) or {"metrics": {}}
    return as_score(block["metrics"].get(key))


def as_score(found: Json | None) -> Score:
    """A `paired.mean_difference`, or one that was not measured."""
    return Score(*(found[key] for key in ("mean", "se", "low", "high"))) if found else Score(None)


def base_of(models: list[Json]) -> Json | None:
    """The untrained model: the one without a method."""
    return next((model for model in models if model["method"] is None), None)


def pairs_to_compare(models: list[Json]) -> list[tuple[Json, Json]]:
    """(before, after): the base and each model; of each method the best on naive and the best on augmented data."""
    base = base_of(models)
    pairs = [(base, model) for model in models if base and model is not base]
    known = [model for model in models if model["method"] and measured(model, "learning", "f1").value is not None]
    known.sort(key=lambda model: measured(model, "learning", "f1").value or 0)
    best = {(model["method"], model["data"]): model for model in known}
    for method in dict.fromkeys(model["method"] for model in models):
        if (method, "naive") in best and (method, "augmented") in best:
            pairs.append((best[method, "naive"], best[method, "augmented"]))
    return pairs


def forgetting(results: Json, model: Json, base: Json | None) -> Score:
    """Mean rise of NLL over every retention set that the base was measured on."""
    keys = [(name, key) for name in (base or {}).get("retention") or {} for key in ("answer_nll", "nll")]
    keys = [key for key in keys if measured(base, *key).value is not None]
    if model is base:
        return Score(0.0) if keys else Score(None)
    sets = compared(results, model, base)
    parts = [(sets[name]["n"], sets[name]["metrics"][key]) for name, key in keys if name in sets]
    # A mean over fewer sets than the other models have would not be comparable with theirs.
    if not keys or len(parts) < len(keys):
        return Score(None)
    return as_score(mean_of_differences(parts))


def points_of(results: Json) -> list[Point]:
    models = results["models"]
    base, points = base_of(models), []
    for model in models:
        f1, gain = measured(model, "learning", "f1"), change(results, model, base, "learning", "f1")
        fall = change(results, model, base, "learning", "answer_nll").reversed()
        if model is base:  # the origin, which has no error against itself
            gain = fall = Score(None if f1.value is None else 0.0)
        loss = forgetting(results, model, base)
        points.append(Point(model["name"], model["data"], model["method"], f1, gain, fall, loss))
    return points


# Words


def verdict(results: Json) -> str:
    """One sentence: who learned most, what that cost, whether augmented data helped."""
    points = points_of(results)
    before = next((point.f1 for point in points if point.method is None), Score(None))
    trained = [point for point in points if point.method is not None and point.f1.value is not None]
    if not trained:
        return "No trained model has been measured."
    best = max(trained, key=lambda point: point.f1.value or 0)
    gain = best.f1_gain
    if gain.is_clear() and (gain.value or 0) > 0:
        learned = f"{best.name} learned most, F1 {best.f1} against {Score(before.value)} for the base"
    elif gain.value is None:
        learned = f"{best.name} scores highest, F1 {best.f1}"
    else:
        learned = f"No model clearly learned: the best, {best.name}, has F1 {best.f1} against {before} before"
    return "; ".join(filter(None, [learned, lost_clause(best.loss), data_clause(results)])) + "."


def lost_clause(loss: Score) -> str:
    if loss.value is None:
        return "what it forgot was not measured"
    change = f"NLL on older knowledge changed by {loss.signed()} nats"
    if loss.is_clear():
        return f"it forgot: {change}" if loss.value > 0 else f"it forgot nothing: {change}"
    return f"{change}, too little to tell from none"


def data_clause(results: Json) -> str:
    """On how many methods augmented data beat naive data; the best model of each pair counts."""
    pairs = [(a, b) for a, b in pairs_to_compare(results["models"]) if a["data"] == "naive"]
    gains = [change(results, after, before, "learning", "f1") for before, after in pairs]
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
    rows = [header + ["general F1", "change", "general NLL", "change", "KL"]]
    for model in results["models"]:
        row = [model["name"], model["data"] or "-", model["method"] or "-"]
        row += [str(measured(model, "learning", key)) for key in ("f1", "exact_match", "answer_nll")]
        for key in (("general_questions", "f1"), ("general_text", "nll")):
            row += [str(measured(model, *key)), change(results, model, base, *key).signed()]
        away = (model.get("divergence") or {}).get("general_text") or {}
        rows.append([*row, str(Score(away.get("kl"), away.get("kl_se")))])
    return rows


def summary_table(results: Json) -> str:
    """The models as an aligned plain-text table for the terminal."""
    rows = summary_cells(finite(results))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def summary_markdown(results: Json) -> str:
    header, *rows = ([cell.replace("|", "\\|") for cell in row] for row in summary_cells(results))
    lines = [f"# {results['study']}", "", verdict(results), ""]
    lines += [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([*lines, "", f"{ERROR_NOTE} Changes and KL are against the base.", ""])


# The page


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


def scaling(results: Json) -> Json | None:
    """Learning over tokens, by the first measure of learning that there is."""
    points = points_of(results)
    for field, title in PLANES.values():
        pairs = zip(results["models"], points, strict=True)
        known = [(model, getattr(point, field)) for model, point in pairs if model["method"] and model["train"]]
        trained = [
            Trained(model["data"], model["method"], model["train"]["tokens"], score.value, score.se or 0.0)
            for model, score in known
            if score.value is not None and model["train"]["tokens"]
        ]
        if trained:
            return scaling_figure(trained, {str(name): colour for name, colour in METHOD_COLOURS.items()}, title)
    return None


def drawable(points: list[Point], field: str) -> list[Point]:
    return [point for point in points if getattr(point, field).value is not None and point.loss.value is not None]


def on_front(points: list[Point], field: str) -> list[int]:
    """Places of the points that no other one beats at learning without forgetting more."""
    return pareto_front([(getattr(point, field).value, point.loss.value or 0.0) for point in points])


def write_figures(results: Json, folder: Path) -> None:
    """The plane as a picture, by the first measure of learning that there is."""
    for field, title in PLANES.values():
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


def matched(results: Json) -> Json | None:
    """What each method lost by the time it had learned the same: a fall of the gold answers' NLL that all reach."""
    seeds = {model["name"]: model["seed"] for model in results["models"]}
    runs = [
        (f"{point.data} {point.method}", seeds[point.name], point.answer_gain.value or 0.0, point.loss.value or 0.0)
        for point in drawable(points_of(results), "answer_gain")
        if point.method
    ]
    target, rows = matched_rows(runs)
    before = measured(base_of(results["models"]), "learning", "answer_nll").value
    return {"target": target, "before": before, "rows": rows} if rows else None


def drop_rows(results: Json) -> list[Json]:
    """General questions: what each model lost of F1, absolute and relative; no ratio to a score near zero."""
    before = measured(base_of(results["models"]), "general_questions", "f1")
    found = []
    for model in results["models"]:
        after = measured(model, "general_questions", "f1")
        if model["method"] and before.value is not None and after.value is not None:
            sure = before.se is not None and before.value > 2 * before.se
            drop = before.value - after.value
            found.append({"model": model, "drop": drop, "relative": drop / before.value if sure else None})
    return found


def least_covered(documents: list[Json]) -> list[Json]:
    """The documents of whose sentences the generated texts mention the smallest shares."""
    told = [document for document in documents if document["sentences"]]
    return sorted(told, key=lambda line: line["sentences_mentioned"] / line["sentences"])[:LEAST_SHOWN]


@functools.cache
def packed_plotly() -> str:
    """Plotly's script, packed once for all pages of a process."""
    return packed(get_plotlyjs())


def packed(text: str) -> str:
    """Text as base64 of gzip, for the page to inflate; the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def score_columns(models: list[Json]) -> list[tuple[str, str]]:
    """(set, metric) for every score that any model has; the gold questions come first."""
    columns = [("learning", key) for key in ("f1", "exact_match", "answer_nll")]
    for model in models:
        sets = (model["retention"] or {}).items()
        columns += [(name, key) for name, block in sets for key in metric_keys(block or {})]
    return list(dict.fromkeys(columns))


def metric_keys(block: Json) -> list[str]:
    """The scores of a set: ours in our order, then those of the harness that have an error."""
    others = [key for key in block if f"{key}_se" in block and key not in METRICS]
    return [key for key in METRICS if key in block] + others


def metric_name(key: str) -> str:
    return (METRICS | TASK_METRICS).get(key) or key.replace("_", " ").replace(",", ", ").capitalize()


def score_cell(results: Json, model: Json, base: Json | None, name: str, key: str) -> Json:
    """The score; for what was known before, its change too, and whether that is clearly for the worse."""
    moved = change(results, model, base, name, key) if name != "learning" else Score(None)
    worse = moved.is_clear() and ((moved.value or 0) < 0) == key.startswith(HIGHER_IS_BETTER)
    return {"score": str(measured(model, name, key)), "change": moved.signed(), "worse": worse}


def kind_rows(models: list[Json]) -> tuple[list[tuple[str, int]], list[tuple[Json, list[Score]]]]:
    """Kinds of gold questions with their numbers, and per model its F1 and answer NLL on each kind, in turn."""
    split = [(model, model["learning"]["kinds"]) for model in models if (model["learning"] or {}).get("kinds")]
    kinds = [(kind, block["n"]) for kind, block in split[0][1].items()] if split else []
    return kinds, [
        (
            model,
            [
                Score(blocks[kind][key], blocks[kind][f"{key}_se"])
                for kind, _ in kinds
                for key in ("f1", "answer_nll")
            ],
        )
        for model, blocks in split
    ]


def kind_cells(block: Json, kinds: list[tuple[str, int]]) -> list[Score]:
    """F1 and answer NLL of each kind in turn, unknown where the block is not split."""
    split = block.get("kinds") or {}
    return [
        Score((split.get(kind) or {}).get(key), (split.get(kind) or {}).get(f"{key}_se"))
        for kind, _ in kinds
        for key in ("f1", "answer_nll")
    ]


def interval(found: Json | None) -> str:
    """A change with its 95 % interval."""
    score = as_score(found)
    if score.value is None or score.low is None:
        return score.signed()
    return f"{score.value:+.3f} ({score.low:+.3f} to {score.high:+.3f})"


def render_page(results: Json) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader)
    jinja.filters |= {"plain": plain, "duration": duration, "typeset": typeset, "interval": interval}
    models, points = results["models"], points_of(results)
    base, columns = base_of(models), score_columns(models)
    charts = {name: plane(points, field, title) for name, (field, title) in PLANES.items()}
    samples = results.get("samples") or {"items": []}
    return jinja.get_template("report.html.j2").render(
        results=results,
        created=datetime.fromisoformat(results["created"]).strftime("%d %B %Y, %H:%M %Z").strip(),
        verdict=verdict(results),
        extremes=extremes(points),
        scaling=scaling(results),
        charts={name: chart for name, chart in charts.items() if chart},
        plotly_script=packed_plotly() if any(charts.values()) else "",
        samples=packed(json.dumps(samples)) if samples["items"] else "",
        num_samples=len(samples["items"]),
        matched=matched(results),
        drops=drop_rows(results),
        ceilings=[
            (name, block, kind_cells(block, kind_rows(models)[0]))
            for name, block in (results.get("ceilings") or {}).items()
        ],
        divergence=sorted({name for model in models for name in model.get("divergence") or {}}, reverse=True),
        colours={point.method: METHOD_COLOURS.get(point.method, OTHER_COLOUR) for point in points},
        metric_name=metric_name,
        columns=columns,
        rows=[(model, [score_cell(results, model, base, *c) for c in columns]) for model in models],
        kinds=kind_rows(models),
        least_covered=least_covered(results["coverage"]),
        reasons=sorted({reason for row in results["templates"] for reason in row["dropped"]}),
        error_note=ERROR_NOTE,
    )
