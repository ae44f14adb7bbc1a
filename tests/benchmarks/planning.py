"""Time and memory of planning: 10 million requests against a ledger of 10 million rows, echo engine.

    python tests/benchmarks/planning.py [--quick] [--chunks 1000000] [--folder FOLDER]

A million synthetic chunks and five templates of two replicates each; the ledger, written beforehand in segments of
100,000 rows, answers the first half of the plan and five million requests of other studies. Timed, in a process
of its own: chunks in memory -> plan -> anti-join -> the first thousand prompts rendered and answered (echo engine).
`--quick` does the same with a tenth (2 minutes). The last line of standard output is one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import polars as pl

from active_reading.augment.engine import EchoEngine
from active_reading.augment.keys import request_id
from active_reading.augment.ledger import SCHEMA, Ledger
from active_reading.augment.plan import ModelIdentity, Plan, Planner
from active_reading.augment.settings import GenerateSettings, TemplateUse

SEGMENT_ROWS = 100_000
REPLICATES = 2
NUM_TEMPLATES = 5
MODEL = ModelIdentity("synthetic", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the ledger is written, and kept (2 GB)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    num_chunks = 100_000 if arguments.quick else arguments.chunks
    if arguments.measure:
        measure(arguments.folder, num_chunks)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_ledger(folder, num_chunks)
        command = [sys.executable, __file__, "--measure", "--folder", str(folder), "--chunks", str(num_chunks)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def settings(folder: Path) -> GenerateSettings:
    uses = []
    for number in range(NUM_TEMPLATES):
        path = folder / f"template_{number}.j2"
        path.write_text(f"---\nversion: 1\nanswer: text\n---\nText:\n{{{{ text }}}}\n\nRetell it, way {number}.\n")
        uses.append(TemplateUse(template=str(path), replicates=REPLICATES))
    return GenerateSettings(engine="echo", templates=uses)


def synthetic_chunks(num_chunks: int) -> pl.DataFrame:
    number = pl.int_range(num_chunks, eager=True)
    frame = pl.DataFrame({"number": number})
    sentence = "The owl of forest {} sleeps in an oak of {} rings. It eats {} mice a year and sings at dusk."
    text = pl.format(sentence, "number", pl.col("number") % 997, pl.col("number") % 89)
    return frame.select(
        pl.format("chunk-{}", "number").alias("chunk_id"), text.alias("text"), pl.lit("Owls").alias("title")
    )


def write_ledger(folder: Path, num_chunks: int) -> None:
    """Rows for the first half of the plan, then as many again that no request of the plan asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = synthetic_chunks(num_chunks)
    keys = Plan(Planner(settings(folder), MODEL), chunks[: num_chunks // 2]).initial()["key"]
    ids = [f"{request_id(key)}" for key in keys]
    ids += [f"{request_id(key ^ (1 << 127) ^ 1)}" for key in keys]
    for start in range(0, len(ids), SEGMENT_ROWS):
        rows = pl.DataFrame({"request_id": ids[start : start + SEGMENT_ROWS]}).with_columns(
            text=pl.format("It is so that the owl with the number {} sleeps in an oak.", "request_id"),
            finish_reason=pl.lit("stop"),
            template=pl.lit("retell"),
            model=pl.lit("synthetic"),
        )
        missing = [pl.lit(None).cast(kind).alias(name) for name, kind in SCHEMA.items() if name not in rows.columns]
        rows.with_columns(missing).select(SCHEMA.keys()).write_parquet(folder / f"{start:020d}-synthetic.parquet")


def measure(folder: Path, num_chunks: int) -> None:
    chunks = synthetic_chunks(num_chunks)
    before = peak_gb()
    began = time.perf_counter()
    plan = Plan(Planner(settings(folder), MODEL), chunks)
    work = plan.missing(Ledger(folder))
    engine = EchoEngine()
    for request in islice(plan.requests(work.missing), 1000):
        engine.submit(request.request_id, request.template.messages(**request.values), request.sampling)
        engine.poll()
    seconds = time.perf_counter() - began
    result = {
        "requests": work.num_planned,
        "ledger_rows": work.answered.len(),
        "missing": work.missing.height,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak_gb(), 2),
        "chunks_alone_gb": round(before, 2),
    }
    print(json.dumps(result))


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
