"""Corpora learned one after another: what is left of each at the end?

    python tests/benchmarks/sequential.py [--quick] [--output FOLDER]

Each corpus is five invented people (`invented.py`), scored on held-out wording right after it was learned and again
when all are learned. A model goes on from what the same method made of the corpora before. `kept_share` of a run is
the mean F1 of all corpora but the last at the end over that right after learning; `kept_nats` is the same of the
fall of the gold NLL against the untouched base, which F1 near its floor cannot show. Technical prose (docstrings of
Python's standard library) says what else was lost. Every corpus's scores go to `sequence.jsonl` as they come, and a
run that was stopped goes on after the last corpus it learned. The last line of standard output is one JSON object.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import transformers
from invented import Corpus, invented_corpora

from active_reading.eval.answers import ClosedBook, text_nll
from active_reading.eval.evaluate import docstrings
from active_reading.eval.questions import few_shot_examples
from active_reading.eval.scores import f1
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.trainer import train_model

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One sequence of trainings; `changes` are settings of `train`."""

    method: Method
    rate: float
    seed: int = 0
    changes: Json = field(default_factory=dict)

    def name(self) -> str:
        words = [self.method, f"lr{self.rate}", *(f"{key}{value}" for key, value in self.changes.items())]
        return "-".join([*words, f"seed{self.seed}"])


def quick_runs() -> list[Run]:
    return [Run("full", 5e-5), Run("lora", 2e-4), Run("memory", 0.1)]


def full_runs() -> list[Run]:
    rates: list[tuple[Method, float]] = [
        ("full", 2e-5),
        ("full", 5e-5),
        ("lora", 1e-4),
        ("lora", 2e-4),
        ("memory", 0.05),
        ("memory", 0.1),
    ]
    changes: list[Json] = [{}, {"replay_share": 0.05}]
    return [Run(*each, seed, change) for seed in (0, 1, 2) for change in changes for each in rates]


class Bench:
    """The model, and the scores that are taken of it."""

    def __init__(self, num_tokens: int) -> None:
        self.base = str(resolve_model(DEFAULT_MODEL).folder)
        self.tokenizer = load_tokenizer(self.base)
        self.prose = docstrings()[::2]
        self.num_tokens = num_tokens

    def scores(self, model: Any, corpora: list[Corpus]) -> list[Json]:
        """Mean F1 and gold NLL (nats per token) on each corpus."""
        book = ClosedBook(model, self.tokenizer, few_shot_examples(), 8)
        rows = []
        for corpus in corpora:
            answers = book.answer(corpus.questions)
            pairs = zip(answers, corpus.questions, strict=True)
            rows.append(
                {
                    "f1": fmean(f1(answer, list(question.answers)) for answer, question in pairs),
                    "nll": fmean(book.answer_nll(corpus.questions)),
                }
            )
        return rows

    def prose_nll(self, model: Any) -> float:
        return fmean(text_nll(model, self.tokenizer, self.prose, 4))

    def run(self, run: Run, corpora: list[Corpus], folder: Path) -> Json:
        """Learn the corpora in turn; returns the scores right after each, and of all at the end."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "sequence.jsonl"
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        for place in range(len(lines), len(corpora)):
            before = str(folder / f"corpus-{place - 1}") if place else self.base
            after = folder / f"corpus-{place}"
            train_model(
                corpora[place].texts, before, run.method, self._settings(run, place), after, lambda *_: None
            )
            line: Json = self.scores(load_model(after).eval(), [corpora[place]])[0]
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            if place:
                shutil.rmtree(before)
            print(f"  corpus {place + 1} of {len(corpora)}: F1 {line['f1']:.3f}, NLL {line['nll']:.3f}", flush=True)
        model = load_model(folder / f"corpus-{len(corpora) - 1}").eval()
        return {"after": lines, "end": self.scores(model, corpora), "prose": self.prose_nll(model)}

    def _settings(self, run: Run, place: int) -> TrainSettings:
        values: Json = {
            "num_tokens": self.num_tokens,
            "batch_tokens": 512,
            "schedule": "constant_with_warmup",
            "checkpoint_steps": 0,
            "seed": 1000 * run.seed + place,
            "learning_rates": {run.method: run.rate},
        }
        return TrainSettings.model_validate(values | run.changes)


def kept(result: Json, base: list[Json]) -> Json:
    """What is left at the end of all corpora but the last, as a share of what was learned."""
    after, end = result["after"][:-1], result["end"][:-1]
    learned_f1 = fmean(row["f1"] for row in after)
    learned_nats = fmean(b["nll"] - row["nll"] for row, b in zip(after, base, strict=False))
    left_nats = fmean(b["nll"] - row["nll"] for row, b in zip(end, base, strict=False))
    return {
        "kept_share": round(fmean(row["f1"] for row in end) / learned_f1, 3) if learned_f1 else None,
        "kept_nats": round(left_nats / learned_nats, 3),
        "f1_after_learning": round(learned_f1, 3),
        "f1_at_end": round(fmean(row["f1"] for row in end), 3),
        "nats_after_learning": round(learned_nats, 3),
        "prose_nll": round(result["prose"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 corpora, 3 runs: under 40 minutes on two cores")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "sequential")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    count, num_tokens = (5, 8_000) if arguments.quick else (20, 12_000)
    bench = Bench(num_tokens)
    untouched = load_model(bench.base).eval()
    corpora = invented_corpora(count, 5, seed=0)
    base = bench.scores(untouched, corpora)
    table: Json = {
        "base": {"f1": round(fmean(row["f1"] for row in base), 3), "prose_nll": bench.prose_nll(untouched)}
    }
    for run in quick_runs() if arguments.quick else full_runs():
        print(f"{run.name()}: {count} corpora of 5 people, {num_tokens} tokens each", flush=True)
        result = bench.run(run, corpora, arguments.output / f"{count}x{num_tokens}" / run.name())
        table[run.name()] = kept(result, base)
        print("  ", table[run.name()], flush=True)
    ours = [row for name, row in table.items() if name.startswith("memory")]
    best = max(ours, key=lambda row: row["kept_nats"])
    print(json.dumps({"kept_share": best["kept_share"], "kept_nats": best["kept_nats"], "table": table}))


if __name__ == "__main__":
    main()
