"""Seen: what dedupe knows of every row it has read, in a folder, so that a later run reads only what is new.

    settings.json        what the rows were compared by; a folder made with others is refused
    NNNNNNNN.parquet     rows in the order they came: id, exact, length, faithfulness, duplicate_of, similarity,
                         num_shingles, band_00 ...
    NNNNNNNN.shingles    their shingles, little-endian 32-bit, one text after the other

A part is two files, and its Parquet file is renamed into place last: what a killed run left behind is ignored.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from active_reading.augment.shingles import I64, U32, U64

VERDICT = {"duplicate_of": pl.String, "similarity": pl.Float64}
ROWS = {"id": pl.String, "exact": pl.UInt64, "length": pl.UInt32, "faithfulness": pl.Float64}
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Part:
    """Rows `start` to `start + len(counts)` of the folder."""

    table: Path
    shingles: Path
    start: int
    counts: I64  # shingles per row


class Seen:
    """The rows in a folder, numbered from 0 in the order they came."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        _check_settings(folder / SETTINGS, settings)
        self.parts: list[Part] = []
        for table in sorted(folder.glob("*.parquet")):
            self._append(table, pl.read_parquet(table, columns=["num_shingles"])["num_shingles"].to_numpy())

    @property
    def num_rows(self) -> int:
        return self.parts[-1].start + len(self.parts[-1].counts) if self.parts else 0

    def rows(self, *columns: str) -> pl.DataFrame:
        """Columns of the finished rows (those without a verdict are not finished)."""
        schema = {**ROWS, **VERDICT}
        tables = [part.table for part in self.parts if part.table.suffix == ".parquet"]
        if not tables:
            return pl.DataFrame(schema={name: schema[name] for name in columns})
        return pl.scan_parquet(tables).select(columns).collect()

    def write(self, rows: pl.DataFrame, shingles: U32, counts: I64, keys: U64) -> None:
        """Rows (ROWS) without a verdict yet, `counts` shingles of each; `finish` adds the verdicts."""
        name = self.folder / f"{len(self.parts):08}"
        bands = {f"band_{band:02}": key for band, key in enumerate(keys)}
        shingles.astype("<u4").tofile(name.with_suffix(".shingles"))
        table = name.with_suffix(".partial")
        rows.with_columns(num_shingles=counts.astype(np.uint32), **bands).write_parquet(
            table, compression="uncompressed"
        )
        self._append(table, counts)

    def finish(self, verdicts: pl.DataFrame) -> None:
        """Add the verdicts (VERDICT) of all rows written since the folder was opened."""
        start = 0
        for place, part in enumerate(self.parts):
            if part.table.suffix == ".parquet":
                continue
            rows = pl.read_parquet(part.table).hstack(verdicts.slice(start, len(part.counts)))
            start += len(part.counts)
            rows.write_parquet(part.table, compression="uncompressed")
            final = part.table.with_suffix(".parquet")
            os.replace(part.table, final)
            self.parts[place] = Part(final, part.shingles, part.start, part.counts)

    def band(self, band: int) -> U64:
        """(rows,) keys of one band."""
        name = f"band_{band:02}"
        return np.concatenate([pl.read_parquet(part.table, columns=[name])[name].to_numpy() for part in self.parts])

    def shingles(self, rows: I64) -> tuple[U32, I64]:
        """Shingles of the rows (ascending), one after the other, and where each row's begin (one more than rows)."""
        found, sizes = [], []
        for part, chosen in self._split(rows):
            offsets = np.concatenate([[0], np.cumsum(part.counts)])
            data = np.memmap(part.shingles, "<u4", mode="r", shape=(int(offsets[-1]),))
            size = part.counts[chosen]
            place = np.repeat(offsets[chosen] - np.cumsum(size) + size, size) + np.arange(size.sum())
            found.append(np.asarray(data[place], dtype=np.uint32))
            sizes.append(size)
        return np.concatenate(found), np.concatenate([[0], np.cumsum(np.concatenate(sizes))])

    def counts(self) -> I64:
        """(rows,) number of shingles of each row, repeated ones too."""
        return np.concatenate([part.counts for part in self.parts])

    def _append(self, table: Path, counts: I64) -> None:
        self.parts.append(Part(table, table.with_suffix(".shingles"), self.num_rows, counts.astype(np.int64)))

    def _split(self, rows: I64) -> Iterator[tuple[Part, I64]]:
        for part in self.parts:
            low, high = np.searchsorted(rows, [part.start, part.start + len(part.counts)])
            if low < high:
                yield part, rows[low:high] - part.start


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(settings), encoding="utf-8")
        os.replace(partial, path)
    made = json.loads(path.read_text(encoding="utf-8"))
    if made != settings:
        raise ValueError(f"{path.parent} was made with {made}, not {settings}: name another folder, or remove it")
