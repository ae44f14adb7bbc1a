"""Ingest: a folder of .txt and .md files -> one row per distinct document.

Out: `documents.parquet` columns `document_id` (hash of the text), `source` (path inside the folder),
`title`, `text`, `num_chars`. A file that cannot be read is skipped with a reason; the rest goes on.
NOT covered: HTML, PDF and other formats.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.identity import content_hash

SUFFIXES = (".txt", ".md")


class IngestSettings(BaseModel):
    """Where the documents are."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, description="a folder (searched recursively) or one .txt or .md file")
    max_megabytes: float = Field(64.0, gt=0, description="larger files are skipped")


@dataclass(frozen=True)
class SkippedFile:
    """A file (or a folder that cannot be listed) that gave no document, and why."""

    source: str
    reason: str


def find_files(root: Path) -> tuple[list[Path], list[OSError]]:
    """All .txt and .md files below `root`, hidden ones left out, in a fixed order.

    Links to folders are followed, each folder once. Also the errors of subfolders that cannot be listed.
    Raises ValueError when the folder is missing or has no such file.
    """
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{root} is not a {' or '.join(SUFFIXES)} file")
        return [root], []
    if not root.is_dir():
        raise ValueError(f"corpus folder {root} does not exist: give a folder of .txt or .md files")
    found: list[Path] = []
    unlisted: list[OSError] = []
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, onerror=unlisted.append, followlinks=True):
        visible = sorted(name for name in subfolders if not name.startswith("."))
        targets = {os.path.realpath(Path(folder, name)): name for name in reversed(visible)}
        subfolders[:] = sorted(name for target, name in targets.items() if target not in seen)
        seen |= set(targets)
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not files and unlisted:
        raise ValueError(f"corpus folder {unlisted[0].filename} cannot be read: {unlisted[0].strerror}")
    if not files:
        raise ValueError(f"corpus folder {root} has no .txt or .md file")
    return files, unlisted


def read_documents(settings: IngestSettings) -> tuple[pl.DataFrame, list[SkippedFile]]:
    """Read every file; the same text twice is one document (the first source stands for it).

    Raises ValueError when no file gives a document.
    """
    root = Path(settings.path).expanduser()
    base = root.parent if root.is_file() else root
    documents: dict[str, dict[str, object]] = {}
    files, unlisted = find_files(root)
    skipped = [
        SkippedFile(_inside(base, Path(error.filename)), f"cannot be read: {error.strerror}") for error in unlisted
    ]
    for path in files:
        source = _inside(base, path)
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
            "title": _title(text, source),
            "text": text,
            "num_chars": len(text),
        }
    if not documents:
        reasons = "; ".join(f"{file.source}: {file.reason}" for file in skipped[:3])
        raise ValueError(f"no readable document in {root} ({reasons})")
    return pl.DataFrame(list(documents.values())), skipped


def _inside(base: Path, path: Path) -> str:
    """The path below `base`; bytes in a name that are not UTF-8 are replaced."""
    return os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "replace")


def _read_text(path: Path, max_megabytes: float) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > max_megabytes * 1e6:
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


def _title(text: str, source: str) -> str:
    for line in text.splitlines():
        if line.startswith("#") and (title := line.lstrip("#").strip()):
            return title
    return PurePosixPath(source).stem.replace("_", " ").replace("-", " ")
