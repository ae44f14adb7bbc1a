"""Ingest: a folder of .txt and .md files -> one row per distinct document.

Out: `documents.parquet` columns `document_id` (hash of the text), `source` (path inside the folder),
`title`, `text`, `num_chars`. A file that cannot be read is skipped with a reason; the rest goes on.
NOT covered: HTML, PDF and other formats.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.identity import content_hash

SUFFIXES = (".txt", ".md")


class IngestSettings(BaseModel):
    """Where the documents are."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="a folder (searched recursively) or one .txt or .md file")
    max_megabytes: float = Field(64.0, gt=0, description="larger files are skipped")


@dataclass(frozen=True)
class SkippedFile:
    """A file that gave no document, and why."""

    source: str
    reason: str


def find_files(root: Path) -> list[Path]:
    """All .txt and .md files below `root`, hidden ones left out, in a fixed order.

    Raises ValueError when the folder is missing or has no such file.
    """
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{root} is not a {' or '.join(SUFFIXES)} file")
        return [root]
    if not root.is_dir():
        raise ValueError(f"corpus folder {root} does not exist: give a folder of .txt or .md files")
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"corpus folder {root} has no .txt or .md file")
    return files


def read_documents(settings: IngestSettings) -> tuple[pl.DataFrame, list[SkippedFile]]:
    """Read every file; the same text twice is one document (the first source stands for it).

    Raises ValueError when no file gives a document.
    """
    root = Path(settings.path).expanduser()
    base = root.parent if root.is_file() else root
    documents: dict[str, dict[str, object]] = {}
    skipped: list[SkippedFile] = []
    for path in find_files(root):
        source = path.relative_to(base).as_posix()
        try:
            text = _read_text(path, settings.max_megabytes)
        except ValueError as error:
            skipped.append(SkippedFile(source, str(error)))
            continue
        document_id = content_hash(text)
        if document_id in documents:
            skipped.append(SkippedFile(source, f"same text as {documents[document_id]['source']}"))
            continue
        documents[document_id] = {
            "document_id": document_id,
            "source": source,
            "title": _title(text, path),
            "text": text,
            "num_chars": len(text),
        }
    if not documents:
        reasons = "; ".join(f"{file.source}: {file.reason}" for file in skipped[:3])
        raise ValueError(f"no readable document in {root} ({reasons})")
    return pl.DataFrame(list(documents.values())), skipped


def _read_text(path: Path, max_megabytes: float) -> str:
    try:
        if path.stat().st_size > max_megabytes * 1e6:
            raise ValueError(f"larger than corpus.max_megabytes={max_megabytes:g}")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if b"\0" in data:
        raise ValueError("binary file, not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError("empty file")
    return text


def _title(text: str, path: Path) -> str:
    for line in text.splitlines():
        if line.startswith("#"):
            return line.lstrip("#").strip() or path.stem
    return path.stem.replace("_", " ").replace("-", " ")
