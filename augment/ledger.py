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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

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
    "finish_reason": pl.String,
    "text": pl.String,
    "error": pl.String,
}
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
        frames = [frame for path in sorted(self.folder.glob("*.parquet")) if (frame := _read(path)) is not None]
        rows = pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)
        failures_last = rows.sort(pl.col("error").is_not_null(), maintain_order=True)
        return failures_last.unique("request_id", keep="first", maintain_order=True)

    def writer(self, flush_seconds: float = 5.0) -> "LedgerWriter":
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


def _read(path: Path) -> pl.DataFrame | None:
    try:
        rows = pl.read_parquet(path)
        later = [pl.lit(None).alias(name) for name in SCHEMA if name not in (*rows.columns, *REQUIRED)]
        return rows.with_columns(later).select(SCHEMA.keys()).cast(SCHEMA)  # type: ignore[arg-type]
    except (pl.exceptions.PolarsError, OSError) as error:
        with contextlib.suppress(OSError):  # another reader may have been faster
            path.rename(path.with_suffix(".unreadable"))
        logger.warning("ledger segment %s cannot be read and was set aside: %s", path, error)
        return None
