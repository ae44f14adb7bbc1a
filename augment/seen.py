"""Seen: what dedupe knows of every row it has read, in a folder, so that a later run reads only what is new.

    seen.json               what the rows were compared by, and the number of finished parts
    NNNNNNNN.rows.parquet   rows in the order they came: id, exact, length, faithfulness, num_shingles
    NNNNNNNN.shingles       their shingles, little-endian 32-bit, one text after the other
    NNNNNNNN.keys           their keys, little-endian 64-bit, one band after the other
    NNNNNNNN.verdicts.parquet  duplicate_of and similarity

`seen.json` is replaced last: what a killed run left behind is ignored, and written over.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from active_reading.augment.shingles import I64, U32, U64

ROWS = {"id": pl.String, "exact": pl.UInt64, "length": pl.UInt32, "faithfulness": pl.Float64}
VERDICT = {"duplicate_of": pl.String, "similarity": pl.Float64}
INDEX = "seen.json"


@dataclass(frozen=True)
class Part:
    """Rows `start` to `start + len(counts)`; its files begin with `name`."""

    name: Path
    start: int
    counts: I64  # shingles per row

    def file(self, suffix: str) -> Path:
        """One of its files."""
        return self.name.with_name(f"{self.name.name}.{suffix}")


class Seen:
    """The rows in a folder, numbered from 0 in the order they came."""

    def __init__(self, folder: Path, settings: dict[str, Any], num_bands: int) -> None:
        self.folder, self.settings, self.num_bands = folder, settings, num_bands
        index: dict[str, Any] = {"settings": settings, "parts": 0}
        if (folder / INDEX).exists():
            with self._readable(folder / INDEX):
                index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            _check_index(index, folder)
        if index["settings"] != settings:
            raise ValueError(
                f"dedupe.earlier: {folder} was made with {_listed(index['settings'])}, not {_listed(settings)}: "
                "name another folder, or remove it"
            )
        self.num_finished: int = index["parts"]
        self.parts: list[Part] = []
        for _ in range(self.num_finished):
            table = self._name().with_suffix(".rows.parquet")
            with self._readable(table):
                rows = pl.read_parquet(table, columns=["num_shingles"])
            self._append(rows["num_shingles"].to_numpy())
            self._check_sizes(self.parts[-1])

    def finished_rows(self) -> pl.DataFrame:
        """ROWS and VERDICT of what earlier runs have seen."""
        tables = [pl.DataFrame(schema={**ROWS, **VERDICT})]
        for part in self.parts[: self.num_finished]:
            with self._readable(part.file("verdicts.parquet")):
                rows = pl.read_parquet(part.file("rows.parquet"), columns=list(ROWS))
                tables.append(rows.hstack(pl.read_parquet(part.file("verdicts.parquet"))))
        return pl.concat(tables)

    def write(self, rows: pl.DataFrame, shingles: U32, counts: I64, keys: U64) -> None:
        """Add rows (ROWS) with `counts` shingles each, and their `keys` (bands, rows)."""
        self._append(counts)
        part = self.parts[-1]
        shingles.astype("<u4").tofile(part.file("shingles"))
        keys.astype("<u8").tofile(part.file("keys"))
        table = rows.with_columns(num_shingles=counts.astype(np.uint32))
        table.write_parquet(part.file("rows.parquet"), compression="uncompressed")

    def finish(self, verdicts: pl.DataFrame) -> None:
        """Keep what was written, with the verdicts (VERDICT) on all of it."""
        for part in self.parts[self.num_finished :]:
            start = part.start - self.parts[self.num_finished].start
            verdicts.slice(start, len(part.counts)).write_parquet(part.file("verdicts.parquet"))
        index = {"settings": self.settings, "parts": len(self.parts)}
        partial = self.folder / f"{INDEX}.partial"
        partial.write_text(json.dumps(index), encoding="utf-8")
        os.replace(partial, self.folder / INDEX)

    def bands(self) -> Iterator[U64]:
        """(rows,) keys of one band after the other."""
        for band in range(self.num_bands):
            sizes = [(part, len(part.counts)) for part in self.parts]
            found = [np.fromfile(part.file("keys"), "<u8", size, offset=8 * size * band) for part, size in sizes]
            yield np.concatenate(found)

    def counts(self) -> I64:
        """(rows,) number of shingles of each row, repeated ones too."""
        return np.concatenate([part.counts for part in self.parts])

    def shingles(self, rows: I64) -> tuple[U32, I64]:
        """Shingles of the rows (ascending), one after the other, and where those of each begin, and the end."""
        found, sizes = [], []
        for part, chosen in self._split(rows):
            ends = np.cumsum(part.counts)
            data = np.memmap(part.file("shingles"), "<u4", mode="r", shape=(int(ends[-1]),))
            size = part.counts[chosen]
            place = np.repeat(ends[chosen] - np.cumsum(size), size) + np.arange(size.sum())
            found.append(np.asarray(data[place], dtype=np.uint32))
            sizes.append(size)
        return np.concatenate(found), np.concatenate([[0], np.cumsum(np.concatenate(sizes))])

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        """Raises ValueError, with the cure, when a file of an earlier run is missing or damaged."""
        try:
            yield
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise ValueError(
                f"dedupe.earlier: {path} cannot be read ({' '.join(str(error).split())[:120]}): remove the folder "
                f"{self.folder}, and the next run starts to remember anew"
            ) from error

    def _check_sizes(self, part: Part) -> None:
        sizes = {"shingles": 4 * int(part.counts.sum()), "keys": 8 * self.num_bands * len(part.counts)}
        for name, wanted in sizes.items():
            path = part.file(name)
            with self._readable(path):
                if path.stat().st_size != wanted:
                    raise ValueError(f"{path.stat().st_size} bytes in place of {wanted}")

    def _name(self) -> Path:
        return self.folder / f"{len(self.parts):08}"

    def _append(self, counts: I64) -> None:
        start = self.parts[-1].start + len(self.parts[-1].counts) if self.parts else 0
        self.parts.append(Part(self._name(), start, counts.astype(np.int64)))

    def _split(self, rows: I64) -> Iterator[tuple[Part, I64]]:
        for part in self.parts:
            low, high = np.searchsorted(rows, [part.start, part.start + len(part.counts)])
            if low < high:
                yield part, rows[low:high] - part.start


def _check_index(index: Any, folder: Path) -> None:
    """Its folder may be another program's: nobody is told to remove that."""
    ours = isinstance(index, dict) and isinstance(index.get("settings"), dict)
    if not ours or type(index.get("parts")) is not int or index["parts"] < 0:
        raise ValueError(f"dedupe.earlier: {folder / INDEX} is no file of dedupe's: name another folder")


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
