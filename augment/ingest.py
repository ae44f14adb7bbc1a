"""Ingest: files, URLs or a Hugging Face data set -> one row per distinct document.

Out: `documents.parquet` columns `document_id` (hash of the text), `source` (path inside the corpus, with the
number of its line or row where a file holds many), `title`, `text`, `num_chars`. What cannot be read is
skipped with a reason; the rest goes on. A changed file is a new document in place of the old one.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.chunk import find_headings
from active_reading.augment.identity import content_hash
from active_reading.augment.parsers import Columns, Parsed, parse_file, rows_to_documents
from active_reading.augment.sources import COMPRESSIONS, SkippedFile, find_files

DATASET = "hf:"


class IngestSettings(BaseModel):
    """Where the documents are."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(
        min_length=1,
        description="a folder (searched recursively), a file, a glob, an fsspec URL such as s3://bucket/folder, "
        "or hf:NAME or hf:NAME:CONFIG for a Hugging Face data set (a name on the hub or a folder)",
    )
    max_megabytes: float = Field(64.0, gt=0, allow_inf_nan=False, description="larger documents are skipped")
    text_column: str = Field("text", min_length=1, description="of JSON lines, Parquet, CSV and data sets")
    title_column: str = Field("title", min_length=1, description="used where there is such a column")
    split: str = Field("train", min_length=1, description="of a Hugging Face data set")


def check_corpus(settings: IngestSettings) -> None:
    """Raises ValueError when there is nothing to read; a data set is not opened for it."""
    if not settings.path.startswith(DATASET):
        find_files(settings.path)


def read_documents(settings: IngestSettings) -> tuple[pl.DataFrame, list[SkippedFile]]:
    """Read the corpus; the same text twice is one document (the first source stands for it).

    Raises ValueError when nothing gives a document.
    """
    documents: dict[str, dict[str, object]] = {}
    skipped: list[SkippedFile] = []
    for found in _read(settings):
        if isinstance(found, SkippedFile):
            skipped.append(found)
            continue
        document_id = content_hash(found.text)
        if document_id in documents:
            skipped.append(SkippedFile(found.source, f"same text as {documents[document_id]['source']}"))
            continue
        documents[document_id] = {
            "document_id": document_id,
            "source": found.source,
            "title": found.title or _title(found.text, found.source),
            "text": found.text,
            "num_chars": len(found.text),
        }
    if not documents:
        reasons = "; ".join(f"{file.source}: {file.reason}" for file in skipped[:3])
        raise ValueError(f"no readable document in {settings.path} ({reasons})")
    return pl.DataFrame(list(documents.values())), skipped


def _read(settings: IngestSettings) -> Iterator[Parsed | SkippedFile]:
    limit = f"corpus.max_megabytes={settings.max_megabytes:g}"
    columns = Columns(settings.text_column, settings.title_column, int(settings.max_megabytes * 1e6), limit)
    if settings.path.startswith(DATASET):
        yield from _read_dataset(settings, columns)
        return
    files, skipped = find_files(settings.path)
    yield from skipped
    for file in files:
        yield from parse_file(file, columns)


def _read_dataset(settings: IngestSettings, columns: Columns) -> Iterator[Parsed | SkippedFile]:
    """Rows as they stream in. Raises ValueError when the data set cannot be opened or has no text column."""
    label, rows = open_dataset(settings.path, settings.split)
    yield from rows_to_documents(label, enumerate(rows, start=1), columns)


def open_dataset(path: str, split: str) -> tuple[str, Iterator[dict[str, Any]]]:
    """Name and streaming rows of `hf:NAME` or `hf:NAME:CONFIG`, on the hub or in a folder.

    Raises ValueError when it cannot be opened.
    """
    import datasets

    name, _, config = path.removeprefix(DATASET).partition(":")
    folder = Path(name).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(str(folder))
            rows = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        else:
            place = str(folder) if folder.is_dir() else name
            rows = datasets.load_dataset(place, config or None, split=split, streaming=True)
    except Exception as error:  # the hub, the network and a bad name raise errors of many types
        message = " ".join(str(error).split())
        raise ValueError(f"data set '{name}' (split {split}) cannot be opened: {message}") from error
    return (folder.name if folder.is_dir() else name), _rows_of(rows, name)


def _rows_of(rows: Iterable[Any], name: str) -> Iterator[dict[str, Any]]:
    """The rows as they come. Raises ValueError, with the row, for one that cannot be read."""
    number = 0
    try:
        for row in rows:
            yield dict(row)
            number += 1
    except Exception as error:  # a broken file, or the network: errors of many types
        message = " ".join(str(error).split())
        raise ValueError(f"data set '{name}' cannot be read after row {number}: {message}") from error


def _title(text: str, source: str) -> str:
    if headings := find_headings(text):
        return headings[0][1]
    path = PurePosixPath(re.sub(r":\d+$", "", source))
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.stem.replace("_", " ").replace("-", " ")
