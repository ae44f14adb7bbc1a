"""Time and memory of dedupe as the data grows, and of one more percent of rows on top of what was seen.

    python tests/benchmarks/dedupe_scale.py [--quick] [--rows 100000 1000000 10000000] [--earlier 5000000]
                                            [--text FILE] [--folder FOLDER] [--plot PICTURE]

Rows of 100 words: pieces of real text (--text, or Python's own help texts) that have little in common, a tenth of
them copies of others with 0 to 6 words changed. Each size is a Parquet file that is read lazily by a process of its
own, whose peak of resident memory counts (pages of mapped files too). incremental_share: seconds for 1 % new rows,
a tenth of them copies of earlier ones, on top of --earlier rows that `dedupe.earlier` has seen, over the seconds of
those.
--quick: 0.1 and 1 million rows, and 1 million earlier ones. The full run needs 25 GB of disk in --folder.
--plot: a picture (.png, .svg) of seconds and memory over rows, with the straight line through the first size.
The last line of standard output is one JSON object; rows, seconds and peak_gb are of the largest size.
"""

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rewrites import PIECE, ROW_WORDS, edited, source_words

from active_reading.augment.dedupe import DedupeSettings, find_duplicates

GROUP = 50_000  # rows that are made together; copies are of the same group


def main() -> None:
    arguments = _arguments()
    if arguments.run:
        print(json.dumps(run(*arguments.run)))
        return
    sizes = arguments.rows or ([100_000, 1_000_000] if arguments.quick else [100_000, 1_000_000, 10_000_000])
    earlier = arguments.earlier or (1_000_000 if arguments.quick else 5_000_000)
    words = source_words(arguments.text)
    with tempfile.TemporaryDirectory(dir=arguments.folder or None) as name:
        folder = Path(name)
        measured = []
        for size in sizes:
            path = write(words, size, folder / "texts.parquet", seed=size)
            measured.append({"rows": size, **measured_run(path)})
            print(json.dumps(measured[-1]), flush=True)
        path = write(words, earlier, folder / "texts.parquet", seed=1)
        whole = measured_run(path, folder / "seen")
        new = new_rows(words, path, earlier // 100, folder / "new.parquet")
        added = measured_run(new, folder / "seen")
    if arguments.plot:
        plot(measured, arguments.plot)
    print(
        json.dumps(
            {
                **measured[-1],
                "incremental_share": round(added["seconds"] / whole["seconds"], 4),
                "incremental": {"earlier": earlier, "all": whole, "one_percent": added},
                "growth": measured,
                "machine": f"{platform.processor() or platform.machine()}, {pl.thread_pool_size()} polars threads",
                "polars": pl.__version__,
                "numpy": np.__version__,
            }
        )
    )


def write(words: list[str], count: int, path: Path, seed: int) -> Path:
    """`count` rows in a Parquet file that was never whole in memory."""
    pieces = pl.Series([" ".join(words[start : start + PIECE]) for start in range(len(words) - PIECE)])
    parts = []
    for start in range(0, count, GROUP):
        parts.append(path.with_suffix(f".{start}.part"))
        group(pieces, words, min(GROUP, count - start), seed * 1_000_003 + start).write_parquet(parts[-1])
    pl.scan_parquet(parts).sink_parquet(path)
    for part in parts:
        part.unlink()
    return path


def group(pieces: pl.Series, words: list[str], count: int, seed: int) -> pl.DataFrame:
    """Rows of which a tenth are copies of others in the group."""
    source = random.Random(seed)
    places = np.random.default_rng(seed).integers(0, len(pieces), (ROW_WORDS // PIECE, count - count // 10))
    columns = pl.DataFrame([pieces.gather(chosen).alias(str(place)) for place, chosen in enumerate(places)])
    rows = columns.select(pl.concat_str(pl.all(), separator=" ")).to_series()
    return named(pl.concat([rows, copies(rows.sample(count // 10, seed=seed), words, source)]), seed)


def new_rows(words: list[str], earlier: Path, count: int, path: Path) -> Path:
    """Rows of which a tenth are copies of earlier ones, and a tenth of the others copies among themselves."""
    fresh = pl.read_parquet(write(words, count - count // 10, path, seed=2))["text"]
    old = pl.scan_parquet(earlier).head(count // 10).collect()["text"]
    named(pl.concat([fresh, copies(old, words, random.Random(2))]), 2, "new").write_parquet(path)
    return path


def copies(rows: pl.Series, words: list[str], source: random.Random) -> pl.Series:
    return pl.Series([" ".join(edited(row.split(), source.randint(0, 6), words, source)) for row in rows])


def named(rows: pl.Series, seed: int, prefix: str = "") -> pl.DataFrame:
    """The rows in another order, with ids."""
    ids = pl.int_range(len(rows), eager=True).cast(pl.String).str.zfill(8)
    return pl.DataFrame(
        {"id": f"{prefix}{seed:016x}" + ids, "text": rows.sample(len(rows), shuffle=True, seed=seed)}
    )


def run(path: str, earlier: str = "") -> dict[str, Any]:
    began = time.perf_counter()
    found = find_duplicates(pl.scan_parquet(path), DedupeSettings(earlier=earlier))
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),  # what other programs on the cores change less
        "peak_gb": round(usage.ru_maxrss / 2**20, 2),
        "duplicates": found.height,
    }


def measured_run(path: Path, *earlier: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", str(path), *map(str, earlier)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def plot(measured: list[dict[str, Any]], path: Path) -> None:
    """Seconds and peak memory over rows; both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    rows = [size["rows"] for size in measured]
    for axes, key, label in zip(figure.subplots(1, 2), ("seconds", "peak_gb"), ("seconds", "peak GB"), strict=True):
        values = [size[key] for size in measured]
        axes.loglog(rows, [values[0] * count / rows[0] for count in rows], color="#999999", linestyle="--")
        axes.loglog(rows, values, "o-", color="#1f5fbf")
        for count, value in zip(rows, values, strict=True):
            axes.annotate(f"{value:g}", (count, value), xytext=(0, -14), textcoords="offset points", ha="center")
        axes.set_xlabel("rows of 100 words")
        axes.set_ylabel(label)
        axes.margins(0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", nargs="*", type=int)
    parser.add_argument("--earlier", type=int)
    parser.add_argument("--text", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--run", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
