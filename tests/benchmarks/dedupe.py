"""Near-duplicates in 100,000 rewrites of real text: this project against others as whole programs, at Jaccard 0.8.

    python tests/benchmarks/dedupe.py [--quick] [--text FILE] [--peers FOLDER] [--only PEER ...]

--text: any English text, such as the validation part of WikiText-2 (https://huggingface.co/datasets/Salesforce/
wikitext); without it Python's own help texts. --quick: 50,000 rewrites in place of 100,000.
--peers: a folder with two environments, made once by

    python3 -m venv FOLDER/sketch && FOLDER/sketch/bin/pip install datasketch==2.0.0 rensa==0.5.0
    python3.12 -m venv FOLDER/text-dedup && FOLDER/text-dedup/bin/pip install text-dedup==0.4.1

SemHash 0.5.0 has no lexical mode: it compares embeddings, and is no peer here.
Each program runs alone in a process of its own, in turn, from a list of texts to which have a near-duplicate
(dedupe_peers.py says how); this one three times, of which the median counts. text-dedup gets a tenth of the rows,
and is compared with this project's time for those. Which rows truly have one is computed exactly, another way
(rewrites.py).
Recall and precision of this project: of rows among the rewrites (recall, precision), and of pairs on a planted set
(planted_recall, planted_precision: 100,000 rows, a tenth of them copies with 0 to 6 words changed).
The last line of standard output is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rewrites import frame, near_pairs, planted, rewrites, source_words

from active_reading.augment.dedupe import DedupeSettings, cluster_table, find_duplicates

THRESHOLD = 0.8
PEERS = {"datasketch": "sketch", "rensa": "sketch", "rensa_rho": "sketch", "text_dedup": "text-dedup"}
TENTH = ("text_dedup",)


def main() -> None:
    arguments = _arguments()
    if arguments.ours:
        print(json.dumps(run_ours(arguments.ours)))
        return
    words = source_words(arguments.text)
    texts = rewrites(words, 50_000 if arguments.quick else 100_000, seed=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, rows in (("all", texts), ("tenth", texts[: len(texts) // 10])):
            (folder / f"{label}.json").write_text(json.dumps(rows), encoding="utf-8")
            frame(rows).write_parquet(folder / f"{label}.parquet")
        runs = {label: [measure_ours(folder, label) for _ in range(3)] for label in ("all", "tenth")}
        ours = {label: statistics.median(run["seconds"] for run in made) for label, made in runs.items()}
        results = {peer: measure_peer(peer, Path(arguments.peers), folder) for peer in arguments.only or PEERS}
    truth = {label: has_near(texts[: len(texts) // part]) for label, part in (("all", 1), ("tenth", 10))}
    flags = {"ours": runs["all"][0]["flags"], **{peer: result["flags"] for peer, result in results.items()}}
    quality = {peer: scores(np.array(found), truth[part_of(peer)]) for peer, found in flags.items()}
    over = {peer: result["seconds"] / ours[part_of(peer)] for peer, result in results.items()}
    whole = planted(words, 100_000, seed=2)
    planted_recall, planted_precision = planted_scores(whole)
    fastest = min((peer for peer in over if peer != "datasketch"), key=lambda peer: over[peer], default=None)
    result = {
        "over_datasketch": round(over["datasketch"], 2) if "datasketch" in over else None,
        "over_fastest": round(over[fastest], 2) if fastest else None,
        "fastest": fastest,
        "recall": quality["ours"][0],
        "precision": quality["ours"][1],
        "planted_recall": planted_recall,
        "planted_precision": planted_precision,
        "over": {peer: round(ratio, 2) for peer, ratio in over.items()},
        "seconds": {peer: round(result["seconds"], 2) for peer, result in results.items()},
        "seconds_ours": {label: [round(run["seconds"], 2) for run in made] for label, made in runs.items()},
        "recall_and_precision": quality,
        "rows": len(texts),
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "polars": pl.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result))


def run_ours(path: str) -> dict[str, Any]:
    """In a process of its own, as the peers."""
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    began = time.perf_counter()
    found = find_duplicates(frame(texts).lazy(), DedupeSettings(threshold=THRESHOLD))
    near = set(cluster_table(found)["id"])
    return {
        "seconds": time.perf_counter() - began,
        "flags": [name in near for name in frame(texts)["id"]],
    }


def measure_ours(folder: Path, label: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--ours", str(folder / f"{label}.json")]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(f"ours, {label} of the rows: {result['seconds']:.2f} s", flush=True)
    return result


def measure_peer(peer: str, peers: Path, folder: Path) -> dict[str, Any]:
    python = peers.absolute() / PEERS[peer] / "bin" / "python"
    if not python.exists():
        sys.exit(f"{peer}: no {python}; the top of this script says how to install it, or leave it out with --only")
    label = part_of(peer)
    files = [str(folder / name) for name in (f"{label}.json", f"{peer}.result", f"{label}.parquet")]
    script = Path(__file__).with_name("dedupe_peers.py")
    subprocess.run([str(python), str(script), peer, *files], check=True, capture_output=True)
    result: dict[str, Any] = json.loads(Path(files[1]).read_text())
    print(f"{peer}, {label} of the rows: {result['seconds']:.2f} s", flush=True)
    return result


def part_of(peer: str) -> str:
    """Which rows a program gets."""
    return "tenth" if peer in TENTH else "all"


def has_near(texts: list[str]) -> np.ndarray:
    """(rows,) whether another row has a Jaccard similarity of at least 0.8."""
    near = np.zeros(len(texts), bool)
    near[np.concatenate(near_pairs(texts, THRESHOLD))] = True
    return near


def scores(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Recall and precision over rows."""
    hits = (found & truth).sum()
    return round(float(hits / truth.sum()), 4), round(float(hits / max(found.sum(), 1)), 4)


def planted_scores(texts: list[str]) -> tuple[float, float]:
    """Recall: of the pairs at 0.8 those in one cluster; precision: of the rows that fell those of such a pair."""
    first, second = near_pairs(texts, THRESHOLD)
    found = find_duplicates(frame(texts).lazy(), DedupeSettings(threshold=THRESHOLD))
    keeper = np.arange(len(texts))
    keeper[found["id"].cast(pl.Int64)] = found["duplicate_of"].cast(pl.Int64)
    fallen = np.flatnonzero(keeper != np.arange(len(texts)))
    recall = (keeper[first] == keeper[second]).mean()
    precision = np.isin(fallen, np.concatenate([first, second])).mean()
    return round(float(recall), 4), round(float(precision), 4)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--text", default="")
    parser.add_argument("--peers", default="peers")
    parser.add_argument("--only", nargs="*", choices=list(PEERS))
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
