"""The ledger: every generation ever made, append-only, addressed by content.

A ledger is a folder of Parquet segments. A writer gathers rows and every few seconds writes a segment
whole and renames it into place, each writer under names of its own: a killed run loses at most the rows
since the last segment, and several writers share one ledger without locks.
"""

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from active_reading.augment.keys import key_of_id

logger = logging.getLogger(__name__)

SCHEMA = {
    "request_id": pl.String,
    "chunk_id": pl.String,
    "template": pl.String,
    "template_hash": pl.String,
    "strategy": pl.String,
    "replicate": pl.Int32,
    "model": pl.String,
    "model_revision": pl.String,
    "temperature": pl.Float64,
    "top_p": pl.Float64,
    "max_tokens": pl.Int32,
    "seed": pl.Int64,
    "prompt_tokens": pl.Int32,
    "completion_tokens": pl.Int32,
    "cached_tokens": pl.Int32,  # of the prompt, those that the engine had computed before
    "finish_reason": pl.String,
    "text": pl.String,
    "error": pl.String,
}
FLUSH_SECONDS = 5.0  # at most so much work is done twice after a crash
# Every ledger ever written has these; a file without one of them answers nothing.
REQUIRED = ("request_id", "finish_reason", "text", "error")


class Ledger:
    """Reads the segments of a folder, and opens writers on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> pl.DataFrame:
        """All rows, one per `request_id`: an answer before a failure, then the oldest.

        A segment that cannot be read is set aside with a warning. Columns that came after a segment was
        written are null there.
        """
        return self._collect(lambda rows: _first(rows, "request_id"))

    def answered(self) -> pl.Series:
        """The key of every request that has an answer; 16 bytes each, and texts are not read."""
        found = self._collect(lambda rows: rows.filter(pl.col("error").is_null()).select(key_of_id()))
        return found["key"].drop_nulls()

    def rows_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of the requests in `keys` (a column `key`), once each as in `read`, in any order; with `key`."""

        def wanted(rows: pl.LazyFrame) -> pl.LazyFrame:
            return _first(
                rows.with_columns(key_of_id()).join(keys.lazy().select("key"), on="key", how="semi"), "key"
            )

        return self._collect(wanted)

    def _collect(self, query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        try:
            return query(self._scan(_read_footer)).collect()
        except (pl.exceptions.PolarsError, OSError):  # damage behind a whole footer: find it, and read the rest
            return query(self._scan(_read_all)).collect()

    def _scan(self, check: Callable[[Path], Any]) -> pl.LazyFrame:
        """The rows of all segments that pass the check, oldest segment first."""
        schema = {**SCHEMA}
        whole: list[list[Path]] = []  # neighbours of today's schema are scanned together
        frames: list[pl.LazyFrame | None] = []
        for path in sorted(self.folder.glob("*.parquet")):
            found = _checked(path, check)
            if found is None:
                continue
            if dict(found) == schema:
                if not frames or frames[-1] is not None:
                    frames.append(None)
                    whole.append([])
                whole[-1].append(path)
            else:
                frames.append(_as_schema(pl.scan_parquet(path), found))
        groups = iter(whole)
        scans = [pl.scan_parquet(next(groups)) if frame is None else frame for frame in frames]
        return pl.concat(scans) if scans else pl.LazyFrame(schema=schema)

    def writer(self, flush_seconds: float = FLUSH_SECONDS) -> "LedgerWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        return LedgerWriter(self.folder, flush_seconds)


class LedgerWriter:
    """Appends rows; used as a context manager, so that an interrupt still writes what is done."""

    def __init__(self, folder: Path, flush_seconds: float) -> None:
        self.folder = folder
        self.flush_seconds = flush_seconds
        self.rows: list[dict[str, Any]] = []
        self.flushed_at = time.monotonic()

    def append(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush when the last one is `flush_seconds` ago; call it also while no row comes. Raises as `flush`."""
        if time.monotonic() - self.flushed_at > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the gathered rows as one segment.

        Raises OSError, naming the ledger's folder, when the disk is full; the rows stay gathered.
        """
        if self.rows:
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
            partial = self.folder / f"{name}.partial"
            try:
                pl.DataFrame(self.rows, schema=SCHEMA).write_parquet(partial)
                os.replace(partial, self.folder / f"{name}.parquet")
            except (pl.exceptions.PolarsError, OSError) as error:  # a full disk is a ComputeError in polars
                partial.unlink(missing_ok=True)
                raise OSError(f"cannot write to the ledger {self.folder}: {error}") from error
            self.rows = []
        self.flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def _first(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    failures_last = rows.sort(pl.col("error").is_not_null(), maintain_order=True)
    return failures_last.unique(column, keep="first", maintain_order=True)


def _as_schema(rows: pl.LazyFrame, found: Mapping[str, Any]) -> pl.LazyFrame:
    """The rows in today's columns and types."""
    later = [pl.lit(None).alias(name) for name in SCHEMA if name not in found]
    return rows.with_columns(later).select(SCHEMA.keys()).cast(SCHEMA)  # type: ignore[arg-type]


def _read_footer(path: Path) -> Mapping[str, Any]:
    return pl.read_parquet_schema(path)


def _read_all(path: Path) -> Mapping[str, Any]:
    rows = pl.read_parquet(path)
    _as_schema(rows.lazy(), rows.schema).collect()
    return rows.schema


def _checked(path: Path, check: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The segment's schema; None, and the segment set aside, when it cannot be read or answers nothing."""
    try:
        schema = check(path)
        lacking = [name for name in REQUIRED if name not in schema]
        if lacking:
            raise pl.exceptions.ColumnNotFoundError(lacking[0])
        return schema
    except (pl.exceptions.PolarsError, OSError) as error:
        with contextlib.suppress(OSError):  # another reader may have been faster
            path.rename(path.with_suffix(".unreadable"))
        logger.warning("ledger segment %s cannot be read and was set aside: %s", path, error)
        return None
