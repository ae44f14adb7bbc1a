"""Provenance: a row of a data set -> the prompt that asked for it -> the chunk -> the document.

The prompt is rendered again from the templates and the study that the version holds, and it is the very one: its
request id, a hash of all that decides an answer, must be the row's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from active_reading.augment.card import RECIPE
from active_reading.augment.chunk import find_headings, heading_above
from active_reading.augment.export import scan_text
from active_reading.augment.plan import ModelIdentity, Plan, Planner, Request
from active_reading.augment.settings import GenerateSettings
from active_reading.augment.versions import Version


@dataclass(frozen=True)
class Origin:
    """Where a row comes from. What is no longer there is None: of a row that is a chunk itself, the request."""

    version: Version
    row: dict[str, Any]
    request: Request | None
    model: ModelIdentity
    chunk: str | None  # its text
    document: str | None  # its text


def find_origin(version: Version, row_id: str, documents: list[Path]) -> Origin | None:
    """The origin of the row whose id begins with `row_id`; None when the version has none.

    `documents` are Parquet files with `document_id`, `title` and `text`, where documents are looked for.
    Raises ValueError when several ids begin so.
    """
    rows = scan_text(version.folder)
    found = rows.filter(pl.col("id").str.starts_with(row_id)).head(2).collect()
    if found.height > 1:
        raise ValueError(f"several ids begin with '{row_id}', such as {' and '.join(found['id'])}: give more of it")
    if found.is_empty():
        return None
    row = found.row(0, named=True)
    titled = _document(row["document_id"], documents)
    document = titled[1] if titled else None
    # The chunk itself may be no row: decontamination may have removed it.
    chunk = document[row["start"] : row["end"]] if document else _text_of(rows, row["chunk_id"])
    model = ModelIdentity(**version.manifest["generator"])
    # Decontamination may have hidden the title that the model was told.
    titles = dict.fromkeys([row["title"], titled[0] if titled else row["title"]])
    heading = heading_above(find_headings(document), row["start"]) if document else ""
    request = None
    if row["request_id"] and chunk is not None:
        request = _request(version, row, [(title, heading) for title in titles], chunk, model)
    return Origin(version, row, request, model, chunk, document)


def _request(
    version: Version, row: dict[str, Any], above: list[tuple[str, str]], chunk: str, model: ModelIdentity
) -> Request | None:
    values = yaml.safe_load((version.folder / RECIPE).read_text(encoding="utf-8"))["generate"]
    for use in values["templates"]:
        for key in ("template", "apply"):
            if use[key]:
                use[key] = str(version.folder / use[key])
    planner = Planner(GenerateSettings.model_validate(values), model)
    for title, heading in above:
        asked = pl.DataFrame(
            {"chunk_id": [row["chunk_id"]], "text": [chunk], "title": [title], "heading": [heading]}
        )
        plan = Plan(planner, asked)
        proposed = f"## {row['strategy']}" if row["strategy"] else ""
        for initial in plan.initial().iter_rows():
            _, place, recipe, *_ = initial
            for made in (initial, *plan.follow_ups(place, recipe, proposed, "stop")):
                if (request := plan.request(*made)).request_id == row["request_id"]:
                    return request
    return None


def _document(document_id: str, files: list[Path]) -> tuple[str, str] | None:
    """Title and text."""
    for path in files:
        found = pl.scan_parquet(path).filter(pl.col("document_id") == document_id).select("title", "text").collect()
        if not found.is_empty():
            title, text = found.row(0)
            return title, text
    return None


def _text_of(rows: pl.LazyFrame, row_id: str) -> str | None:
    found = rows.filter(pl.col("id") == row_id).select("text").collect()
    return None if found.is_empty() else str(found.item())
