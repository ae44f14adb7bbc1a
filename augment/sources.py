"""Sources: a folder, a file, a glob or a URL -> the files in it that hold documents, in a fixed order.

URLs (`s3://`, `gs://`, `memory://` ...) are listed and opened by fsspec, which names the package that a
scheme needs. Compressed files are opened as what they hold.
NOT covered: archives of many files (.zip, .tar).
"""

import bz2
import glob
import gzip
import lzma
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf", ".docx", ".jsonl", ".parquet", ".csv")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LOCKS = ".locks"  # folder in the output folder of a study, which is no corpus, even inside one
# Questions that a study is evaluated on lie beside its documents under this name: never a document.
QUESTIONS = "questions.jsonl"
_KINDS = f"documents are {', '.join(SUFFIXES)}, each also with {', '.join(COMPRESSIONS)}"


@dataclass(frozen=True)
class SkippedFile:
    """A file, a part of one, or a folder that cannot be listed, that gave no document, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class SourceFile:
    """A file that may hold documents: its name inside the corpus, and how it is opened."""

    source: str
    open_raw: Callable[[], Any]

    @property
    def suffix(self) -> str:
        return kind_of(self.source)

    def open(self) -> BinaryIO:
        """The file's bytes, decompressed. Raises OSError."""
        raw, compression = self.open_raw(), PurePosixPath(self.source).suffix.lower()
        if compression == ".zst":
            import pyarrow

            return pyarrow.CompressedInputStream(raw, "zstd")
        readers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
        return readers[compression](raw) if compression in readers else raw  # type: ignore[operator]


def kind_of(name: str) -> str:
    """The suffix that says what a file holds, without that of its compression: `.md` of `a.md.gz`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def is_url(path: str) -> bool:
    return "://" in path


def _no_url(path: str) -> str:
    if is_url(path):
        raise ValueError(f"{path} is a URL: name a folder of this machine")
    return path


LocalFolder = Annotated[str, AfterValidator(_no_url)]  # where something is written


def find_files(path: str) -> tuple[list[SourceFile], list[SkippedFile]]:
    """Every file with a known suffix but hidden ones and our own output; also subfolders that cannot be listed.

    Links to folders are followed, each folder once. Raises ValueError when there is no such file.
    """
    if is_url(path):
        return _find_remote(path), []
    root = Path(path).expanduser()
    if root.is_file():
        if kind_of(root.name) not in SUFFIXES:
            raise ValueError(f"{root} is not a document: {_KINDS}")
        return [_local(root, root.parent)], []
    if not root.is_dir() and glob.has_magic(path):
        return _find_glob(root), []
    if not root.is_dir():
        raise ValueError(f"corpus folder {root} does not exist: give a folder, a file, a glob or a URL")
    files, unlisted = _walk(root)
    if not files and unlisted:
        raise ValueError(f"corpus folder {unlisted[0].filename} cannot be read: {unlisted[0].strerror}")
    if not files:
        raise ValueError(f"corpus folder {root} has no document: {_KINDS}")
    skipped = [
        SkippedFile(_inside(root, Path(error.filename)), f"cannot be read: {error.strerror}") for error in unlisted
    ]
    return [_local(file, root) for file in files], skipped


def _walk(root: Path) -> tuple[list[Path], list[OSError]]:
    found: list[Path] = []
    unlisted: list[OSError] = []
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, onerror=unlisted.append, followlinks=True):
        if LOCKS in subfolders:
            subfolders[:] = []
            continue
        visible = sorted(name for name in subfolders if not name.startswith("."))
        targets = {os.path.realpath(Path(folder, name)): name for name in reversed(visible)}
        subfolders[:] = sorted(name for target, name in targets.items() if target not in seen)
        seen |= set(targets)
        found += [Path(folder, name) for name in names if _is_wanted(name)]
    return sorted(path for path in found if path != root / QUESTIONS), unlisted


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and kind_of(name) in SUFFIXES


def _find_glob(pattern: Path) -> list[SourceFile]:
    base = Path(*pattern.parts[: _first_magic(pattern)])
    found = sorted({Path(name) for name in glob.glob(str(pattern), recursive=True)})
    files = [path for path in found if path.is_file() and _is_wanted(path.name) and not _is_output(path)]
    if not files:
        raise ValueError(f"no document matches {pattern}: {_KINDS}")
    return [_local(path, base) for path in files]


def _is_output(path: Path) -> bool:
    return any((folder / LOCKS).is_dir() for folder in path.parents)


def _first_magic(pattern: Path) -> int:
    return next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))


def _find_remote(url: str) -> list[SourceFile]:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        if glob.has_magic(root):
            names, base = files.glob(root), root[: root.index(next(c for c in root if c in "*?["))]
            base = base.rpartition("/")[0]
        elif files.isfile(root):
            names, base = [root], root.rpartition("/")[0]
        else:
            names, base = files.find(root), root
    except Exception as error:  # each kind of file system has its own
        raise ValueError(f"corpus {url} cannot be listed: {error or type(error).__name__}") from error
    base = base.rstrip("/") + "/"
    inside = {name: name.removeprefix(base) for name in sorted(names)}
    hidden = [name for name, short in inside.items() if any(part.startswith(".") for part in short.split("/"))]
    wanted = {name: short for name, short in inside.items() if name not in hidden and _is_wanted(short)}
    wanted = {name: short for name, short in wanted.items() if short != QUESTIONS and files.isfile(name)}
    if not wanted:
        raise ValueError(f"corpus {url} has no document: {_KINDS}")
    return [SourceFile(short, _opener(files, name)) for name, short in wanted.items()]


def _opener(files: Any, name: str) -> Callable[[], Any]:
    return lambda: files.open(name, "rb")


def _local(path: Path, base: Path) -> SourceFile:
    def open_raw() -> Any:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
        return path.open("rb")

    return SourceFile(_inside(base, path), open_raw)


def _inside(base: Path, path: Path) -> str:
    """The path below `base`; bytes in a name that are not UTF-8 are replaced."""
    return os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "replace")
