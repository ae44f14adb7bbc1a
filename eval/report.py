"""The report: measured numbers in, one page that a person can open from disk out.

In:  `results`, the plain dict that the evaluate stage gathers (corpus, generator, student, templates, models,
     comparisons, questions, examples, stages). None stands for a number that was not measured.
Out: `index.html` (self-contained: it forbids itself the network), `results.json`, `summary.md`, and the plane as
`plane.png` and `plane.svg`.

Not covered: measuring anything.
"""

import base64
import functools
import gzip
import json
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from active_reading.eval.changes import Json, base_of, finite, forgetting_keys, points_of, score_of
from active_reading.eval.grade import grading_note
from active_reading.eval.heat_map import heat_map
from active_reading.eval.plane import METHOD_COLOURS, OTHER_COLOUR, measures, plane, write_figures
from active_reading.eval.scaling import scaling
from active_reading.eval.summary import ERROR_NOTE, summary_markdown
from active_reading.eval.tables import (
    drop_rows,
    interval,
    kind_cells,
    kind_rows,
    learning_keys,
    least_covered,
    matched,
    metric_name,
    score_cell,
    score_columns,
    set_sizes,
)
from active_reading.eval.words import duration, extremes, plain, typeset, verdict


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


def render_page(results: Json) -> str:
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=loader)
    jinja.filters |= {"plain": plain, "duration": duration, "typeset": typeset, "interval": interval}
    models, points = results["models"], points_of(results)
    base, columns = base_of(models), score_columns(models)
    kinds, kind_keys = kind_rows(models), learning_keys(models, by_kind=True)
    charts = {name: plane(points, field, title) for name, field, title in measures(points)}
    sharing = [(model, model["slot_sharing"]) for model in models if model.get("slot_sharing")]
    heat_maps = [heat_map(found) for _, found in sharing]
    samples = results.get("samples") or {"items": []}
    return jinja.get_template("report.html.j2").render(
        results=results,
        created=datetime.fromisoformat(results["created"]).strftime("%d %B %Y, %H:%M %Z").strip(),
        verdict=verdict(results),
        extremes=extremes(points),
        scaling=scaling(results),
        charts={name: chart for name, chart in charts.items() if chart},
        sharing=sharing,
        heat_maps=packed(json.dumps(heat_maps)) if any(heat_maps) else "",
        plotly_script=packed_plotly() if any(charts.values()) or any(heat_maps) else "",
        samples=packed(json.dumps(samples)) if samples["items"] else "",
        num_samples=len(samples["items"]),
        matched=matched(results),
        drops=drop_rows(results),
        ceilings=[
            (name, block, kind_cells(block, kinds[0], kind_keys))
            for name, block in (results.get("ceilings") or {}).items()
        ],
        divergence=sorted({name for model in models for name in model.get("divergence") or {}}, reverse=True),
        colours={point.method: METHOD_COLOURS.get(point.method, OTHER_COLOUR) for point in points},
        metric_name=metric_name,
        columns=columns,
        sizes=set_sizes(models),
        score_of=score_of,
        num_older=len(forgetting_keys(base)),
        rows=[(model, [score_cell(results, model, base, *c) for c in columns]) for model in models],
        kinds=kinds,
        kind_keys=kind_keys,
        grading_note=grading_note,
        costs=[stage["cost"] for stage in results["stages"] if stage.get("cost") is not None],
        least_covered=least_covered(results["coverage"]),
        reasons=sorted({reason for row in results["templates"] for reason in row["dropped"]}),
        error_note=ERROR_NOTE,
    )


@functools.cache
def packed_plotly() -> str:
    """Plotly's script, packed once for all pages of a process."""
    return packed(get_plotlyjs())


def packed(text: str) -> str:
    """Text as base64 of gzip, for the page to inflate; the same bytes for the same text."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")
