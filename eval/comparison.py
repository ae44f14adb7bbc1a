"""The models of several runs in one table and on one page; corpora in sequence as a heat map.

In:  `runs`, `models` (as in a report's results, their names with the run's in front) and `matrix` (see
`continual.py`; None when the runs are no sequence). Out: `comparison.json`, `comparison.md`, `comparison.html`.
"""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from active_reading.eval.changes import finite, measured
from active_reading.eval.summary import aligned, markdown_table
from active_reading.eval.tables import asked_note, metric_name, score_columns
from active_reading.eval.words import typeset

Json = dict[str, Any]
TRANSFER = ("average", "backward", "forward", "forgetting")


def comparison_rows(found: Json) -> list[list[str]]:
    """A header, then one row a model: the gold questions' scores, and every retention set's."""
    models = found["models"]
    columns = [
        column for column in score_columns(models) if any(measured(m, *column).value is not None for m in models)
    ]
    header = ["model", *(f"{'gold' if name == 'learning' else name}: {metric_name(key)}" for name, key in columns)]
    return [header, *([model["name"], *(str(measured(model, *column)) for column in columns)] for model in models)]


def comparison_table(found: Json) -> str:
    """All models as aligned plain text, and the matrix where there is one."""
    blocks = [aligned(comparison_rows(finite(found)))]
    if matrix := found["matrix"]:
        blocks.append(aligned(_matrix_rows(matrix)) + "\n" + _transfer(matrix))
    return "\n\n".join(blocks)


def write_comparison(found: Json, folder: Path) -> Path:
    """Write the comparison's three files into `folder`; returns the page."""
    found = finite(found)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
    tables = [markdown_table(comparison_rows(found))]
    if matrix := found["matrix"]:
        tables += [markdown_table(_matrix_rows(matrix)), _transfer(matrix)]
    marked = "\n\n".join(tables)
    (folder / "comparison.md").write_text(
        f"{marked}\n\n{asked_note(found['models'])} +- is one standard error over items.\n", encoding="utf-8"
    )
    jinja = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, loader=FileSystemLoader(Path(__file__).parent)
    )
    jinja.filters["typeset"] = typeset
    page = folder / "comparison.html"
    rows = comparison_rows(found)
    page.write_text(
        jinja.get_template("comparison.html.j2").render(found=found, rows=rows, transfer=TRANSFER), encoding="utf-8"
    )
    return page


def _matrix_rows(matrix: Json) -> list[list[str]]:
    lines = zip(matrix["after"], matrix["scores"], strict=True)
    return [["F1 after", *matrix["corpora"]], *([name, *(f"{score:.3f}" for score in row)] for name, row in lines)]


def _transfer(matrix: Json) -> str:
    return ", ".join(f"{name} {matrix[name]:+.3f}" for name in TRANSFER if matrix[name] is not None)
