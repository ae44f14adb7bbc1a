"""What a killed generation loses and repeats: kill -9 at random moments, then the same run again.

    python tests/benchmarks/crash.py [--quick] [--runs 20] [--engine echo|vllm] [--flush-seconds 2]

Each run starts the generate stage in a process of its own, kills it some seconds into the asking, twice, and then
lets it end; with the echo engine, which here takes its time for an answer, or with the real vLLM. Compared with
an undisturbed run: `lost` (request ids that are missing), `duplicates` (answers that the ledger has twice),
`repeated_seconds` (the most work that one kill made be done again: answers that came after the last segment; at
most one interval between segments plus what was in flight). Also SIGTERM, a limit on the size of files as a full
disk, and a segment cut short. The last line of standard output is one JSON object.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.engine import Completion, EchoEngine, Engine
from active_reading.augment.generate import generate, make_engine
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL

ECHO_CHUNKS = 60
SECONDS_PER_ANSWER = 0.02
IDENTITY = ModelIdentity("benchmark", "1")


class SlowEcho(EchoEngine):
    """Takes its time, as a model does."""

    def poll(self) -> list[Completion]:
        time.sleep(SECONDS_PER_ANSWER)
        return super().poll()


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        child(arguments.child, arguments.engine, arguments.chunks, arguments.flush_seconds)
        return
    runs = arguments.runs or (6 if arguments.quick else 20)
    chunks = arguments.chunks
    if arguments.engine == "vllm":
        resolve_model(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        start = [sys.executable, __file__, "--engine", arguments.engine, "--chunks", str(chunks)]
        start += ["--flush-seconds", str(arguments.flush_seconds), "--child"]
        expected = ids(finish(start, base / "undisturbed"))
        results = [
            killed(start, base / f"run-{number}", expected, number, signal.SIGKILL) for number in range(runs)
        ]
        terminated = killed(start, base / "terminated", expected, 7, signal.SIGTERM)
        others = {"full_disk": full_disk(start, base / "full", expected), "cut_segment": cut(start, base, expected)}
    result = {
        "runs": len(results),
        "lost": sum(run["lost"] for run in results),
        "duplicates": sum(run["duplicates"] for run in results),
        "repeated_seconds": max(run["repeated_seconds"] for run in results),
        "kills": sum(run["kills"] for run in results),
        "repeated_answers": [run["repeated"] for run in results],
        "requests": len(expected),
        "engine": arguments.engine,
        "flush_seconds": arguments.flush_seconds,
        "sigterm": terminated,
        **others,
    }
    print(json.dumps(result))


def child(folder: Path, engine: str, num_chunks: int, flush_seconds: float) -> None:
    """The generate stage; a line in `asked` for every answer, as it comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if limit := os.environ.get("LIMIT_FILE_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    texts = [
        f"The owl number {n} sleeps in an oak. The oak has {n + 40} rings. The owl is old."
        for n in range(num_chunks)
    ]
    chunks = pl.DataFrame({"chunk_id": [f"c{n}" for n in range(num_chunks)], "text": texts, "title": "Owls"})
    uses = [
        TemplateUse(template="paraphrase", replicates=2, max_tokens=32),
        TemplateUse(
            template="propose_strategies", num_items=2, max_tokens=32, apply="apply_strategy", apply_max_tokens=32
        ),
    ]
    kind: Any = "echo" if engine == "echo" else "vllm"
    settings = GenerateSettings(engine=kind, templates=uses, max_num_seqs=8, max_model_len=1024)

    def start() -> Engine:
        made = SlowEcho() if engine == "echo" else make_engine(settings, resolve_model(DEFAULT_MODEL).folder)
        print("asking", flush=True)
        return made

    ledger = Ledger(folder)
    opened = ledger.writer
    ledger.writer = lambda: opened(flush_seconds)  # type: ignore[method-assign]
    with (folder.parent / f"{folder.name}.answers").open("a") as answers:

        def progress(*_: Any) -> None:
            answers.write(f"{time.time()}\n")
            answers.flush()

        generate(chunks, settings, IDENTITY, ledger, start, progress)


def finish(start: list[str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([*start, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def killed(start: list[str], folder: Path, expected: set[str], seed: int, how: signal.Signals) -> dict[str, Any]:
    """Kill the run some seconds into the asking, two times, then let it end."""
    folder.mkdir(parents=True)
    drawn, kills, repeated, seconds = random.Random(seed), 0, 0, 0.0
    for _ in range(2):
        process = subprocess.Popen([*start, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        before = len(ids(folder))
        if process.stdout.readline().strip() != "asking":
            break  # all was answered
        time.sleep(drawn.uniform(0.1, 6.0))
        if process.poll() is not None:
            break
        process.send_signal(how)
        process.wait()
        kills += 1
        lines = answered_at(folder)
        unsaved = len(lines) - repeated - (len(ids(folder)) - before) - before
        if unsaved > 0:
            repeated += unsaved
            seconds = max(seconds, lines[-1] - lines[-unsaved])
    finish(start, folder)
    rows = all_rows(folder)
    return {
        "lost": len(expected - set(rows["request_id"]))
        + len(set(rows["request_id"]) - expected) * (start[3] == "echo"),
        "duplicates": rows.height - rows["request_id"].n_unique(),
        "repeated": repeated,
        "repeated_seconds": round(seconds, 2),
        "kills": kills,
    }


def answered_at(folder: Path) -> list[float]:
    lines = (folder.parent / f"{folder.name}.answers").read_text().split("\n")
    return [float(line) for line in lines[:-1]]


def full_disk(start: list[str], folder: Path, expected: set[str]) -> dict[str, Any]:
    """No file may be longer than a small segment: the run ends with an error, and the next one completes it."""
    folder.mkdir(parents=True)
    limited = os.environ | {"LIMIT_FILE_BYTES": "6000"}
    done = subprocess.run([*start, str(folder)], env=limited, capture_output=True, text=True)
    error = done.stderr.strip().splitlines()[-1] if done.returncode else "none"
    left = [path.name for path in folder.iterdir() if path.suffix == ".partial"]
    finish(start, folder)
    return {"error": error.split(":")[0], "partial_files": len(left), "lost": len(expected - ids(folder))}


def cut(start: list[str], base: Path, expected: set[str]) -> dict[str, Any]:
    """One segment of a finished ledger loses its second half: its requests alone are asked again."""
    folder = base / "undisturbed"
    segment = sorted(folder.glob("*.parquet"))[0]
    inside = set(pl.read_parquet(segment)["request_id"])
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    before = len(answered_at(folder))
    finish(start, folder)
    asked = len(answered_at(folder)) - before
    return {"in_segment": len(inside), "asked_again": asked, "lost": len(expected - ids(folder))}


def all_rows(folder: Path) -> pl.DataFrame:
    files = sorted(folder.glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files]) if files else pl.DataFrame({"request_id": []})


def ids(folder: Path) -> set[str]:
    return set(all_rows(folder)["request_id"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="6 runs instead of 20")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--engine", choices=["echo", "vllm"], default="echo")
    parser.add_argument("--chunks", type=int, default=ECHO_CHUNKS)
    parser.add_argument("--flush-seconds", type=float, default=2.0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
