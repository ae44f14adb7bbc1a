"""Corpora learned one after another: what is left of each at the end?

    python tests/benchmarks/sequential.py [--quick] [--output FOLDER]

Each corpus is five invented people (`invented.py`), taught as in `forgetting.py` and scored on held-out wording
right after it was learned and again when all are learned. A model goes on from what the same method made of the
corpora before. Later corpora teach again how such questions are answered, so that a score alone would not show
what was forgotten: a control corpus that is never taught is scored each time too, and what a model knows of a
corpus is its gain over the untouched base beyond that of the control (nothing where that gets worse).
`kept_share` of a run is what is known (F1) of all corpora but the last at the end over what was known right after
learning, `kept_nats` the same of gold NLL; None where nothing was known. `nll` is the gold NLL itself, right after
and at the end: the control may get worse, too, and flatter the nats. Technical prose (docstrings of Python's
standard library) says what else was lost. Every corpus's scores go to `sequence.jsonl` as they come, and a
run that was stopped goes on after the last corpus it learned. The last line of standard output is one JSON object;
its `kept_share` is of the memory that knows most at the end, `kept_share_alone` of those that repeat no corpus.
"""

import argparse
import json
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import transformers
from forgetting import closed_book, in_company, train_settings
from forgetting_results import beyond_control
from invented import Corpus, invented_corpora

from active_reading.augment.identity import content_hash
from active_reading.eval.answers import ClosedBook
from active_reading.eval.questions import docstrings, few_shot_examples
from active_reading.eval.texts import text_scores
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL
from active_reading.flows.stage_files import VERSIONS
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.precision import compute_dtype
from active_reading.train.settings import Method
from active_reading.train.trainer import train_model

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One sequence of trainings; `changes` are settings of `train`, beside `forgetting.in_company`.

    `rehearsal` is the share of a training's texts, and of its tokens, that repeats the corpora before; it comes on
    top of the budget.
    """

    method: Method
    rate: float
    seed: int = 0
    changes: Json = field(default_factory=dict)
    rehearsal: float = 0.0

    def name(self) -> str:
        words = [self.method, f"lr{self.rate}", *(f"{key}{value}" for key, value in self.changes.items())]
        words += [f"rehearsal{self.rehearsal}"] if self.rehearsal else []
        return "-".join([*words, f"seed{self.seed}"])

    def texts(self, corpora: list[Corpus], place: int) -> list[str]:
        """What is taught when the corpus at that place is learned."""
        new = corpora[place].texts
        before = [text for corpus in corpora[:place] for text in corpus.texts]
        number = round(len(new) * self.rehearsal / (1 - self.rehearsal))
        return new + random.Random(1000 * self.seed + place).sample(before, min(number, len(before)))

    def budget(self, num_tokens: int, place: int) -> int:
        """Tokens of that training, of which `num_tokens` are for the new texts: the first has no others."""
        return round(num_tokens / (1 - self.rehearsal)) if place else num_tokens


# Nearly all tokens of a corpus (some 4,300) become background of the next ones, in place of a thousand.
MEMORY: Json = {"memory.learned_tokens": 4000}
REHEARSAL = 0.5  # with less, some of twenty corpora's answers are no longer the likeliest


def quick_runs() -> list[Run]:
    alone = [Run("full", 1e-4), Run("lora", 2e-4), Run("memory", 0.04, 0, MEMORY)]
    return [*alone, Run("memory", 0.04, 0, MEMORY, REHEARSAL)]


def full_runs() -> list[Run]:
    rates: list[tuple[Method, float]] = [
        ("full", 5e-5),
        ("full", 1e-4),
        ("lora", 1e-4),
        ("lora", 2e-4),
        ("memory", 0.02),
        ("memory", 0.04),
    ]
    repeated: list[tuple[Json, float]] = [({}, 0.0), ({"replay_share": 0.05}, 0.0), ({}, REHEARSAL)]
    return [
        Run(method, rate, seed, change | (MEMORY if method == "memory" else {}), rehearsal)
        for seed in (0, 1, 2)
        for change, rehearsal in repeated
        for method, rate in rates
    ]


class Bench:
    """The model, and the scores that are taken of it."""

    def __init__(self, num_tokens: int) -> None:
        model = resolve_model(DEFAULT_MODEL)
        self.base, self.revision = str(model.folder), model.revision
        self.tokenizer = load_tokenizer(self.base)
        self.prose = docstrings()[::2]
        self.num_tokens = num_tokens
        self._base_scores: list[Json] = []

    def scores(self, model: Any, corpora: list[Corpus]) -> list[Json]:
        """Mean F1 and gold NLL (nats per token) on each corpus."""
        book = ClosedBook(model, self.tokenizer, few_shot_examples(), 8)
        return [closed_book(book, corpus.questions) for corpus in corpora]

    def prose_nll(self, model: Any) -> float:
        return fmean(each.nll for each in text_scores(model, self.tokenizer, self.prose, 4))

    def run(self, run: Run, corpora: list[Corpus], control: Corpus, root: Path) -> Json:
        """Learn the corpora in turn; returns the scores right after each, and of all at the end."""
        changes = in_company(run.method, run.changes)
        texts = [run.texts(corpora, place) for place in range(len(corpora))]
        settings = [
            train_settings(
                run.method, run.rate, run.budget(self.num_tokens, place), 1000 * run.seed + place, changes
            )
            for place in range(len(corpora))
        ]
        identity = content_hash(
            [each.decisive(run.method) for each in settings],
            [texts, [asdict(question) for corpus in (*corpora, control) for question in corpus.questions]],
            [self.revision, VERSIONS["train"], str(compute_dtype())],
            size=6,
        )
        folder = root / f"{run.name()}-{identity}"
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "sequence.jsonl"
        lines = read_lines(log)
        for place in range(len(lines), len(corpora)):
            before = str(folder / f"corpus-{place - 1}") if place else self.base
            after = folder / f"corpus-{place}"
            shutil.rmtree(after, ignore_errors=True)
            train_model(
                texts[place],
                before,
                run.method,
                settings[place],
                after,
                lambda *_: None,
                memories=root / "memories",
            )
            learned, untaught = self.scores(load_model(after).eval(), [corpora[place], control])
            lines.append({"corpus": learned, "control": untaught})
            log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            if place:
                shutil.rmtree(before)
            print(
                f"  corpus {place + 1} of {len(corpora)}: F1 {learned['f1']:.3f} (control {untaught['f1']:.3f}), "
                f"NLL {learned['nll']:.3f} ({untaught['nll']:.3f})",
                flush=True,
            )
        model = load_model(folder / f"corpus-{len(corpora) - 1}").eval()
        *end, untaught = self.scores(model, [*corpora, control])
        *base, of_control = self.base_scores(corpora, control)
        return {
            "base": base,
            "base_control": of_control,
            "after": lines,
            "end": end,
            "control": untaught,
            "prose": self.prose_nll(model),
        }

    def base_scores(self, corpora: list[Corpus], control: Corpus) -> list[Json]:
        """Of the untouched base, which are the same for every run."""
        if not self._base_scores:
            self._base_scores = self.scores(load_model(self.base).eval(), [*corpora, control])
        return self._base_scores


def read_lines(log: Path) -> list[Json]:
    """The whole lines of a log; a last one that was cut short is left out."""
    lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]


def kept(results: list[Json]) -> Json:
    """What is left at the end of all corpora but the last, of what was known; means over corpora and seeds."""
    pairs = [
        (line, (end, result["control"]), (base, result["base_control"]))
        for result in results
        for line, end, base in zip(result["after"][:-1], result["end"][:-1], result["base"][:-1], strict=True)
    ]

    def known(score: str, right_after: bool) -> float:
        """Mean gain over the base beyond that of the control."""
        gains = []
        better = 1 if score == "f1" else -1
        for line, at_end, (base, base_control) in pairs:
            now, control = (line["corpus"], line["control"]) if right_after else at_end
            gain, of_control = now[score] - base[score], control[score] - base_control[score]
            gains.append(beyond_control(better * gain, better * of_control))
        return fmean(gains)

    known_f1, left_f1 = known("f1", True), known("f1", False)
    known_nats, left_nats = known("nll", True), known("nll", False)
    return {
        "kept_share": round(left_f1 / known_f1, 3) if known_f1 > 0 else None,
        "kept_nats": round(left_nats / known_nats, 3) if known_nats > 0 else None,
        "known_f1": [round(known_f1, 3), round(left_f1, 3)],
        "known_nats": [round(known_nats, 3), round(left_nats, 3)],
        "nll": [
            round(fmean(nll), 3)
            for nll in zip(*((line["corpus"]["nll"], end["nll"]) for line, (end, _), _ in pairs), strict=True)
        ],
        "f1_right_after": round(fmean(line["corpus"]["f1"] for line, _, _ in pairs), 3),
        "prose_nll": round(fmean(result["prose"] for result in results), 3),
        "seeds": len(results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 corpora, 4 runs: under 40 minutes on two cores")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "sequential")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    count, num_tokens = (5, 10_000) if arguments.quick else (20, 12_000)
    bench = Bench(num_tokens)
    *corpora, control = invented_corpora(count + 1, 5, seed=0)
    results: dict[str, list[Json]] = {}
    for run in quick_runs() if arguments.quick else full_runs():
        print(f"{run.name()}: {count} corpora of 5 people, {num_tokens} tokens each", flush=True)
        setting = run.name().rpartition("-seed")[0]
        results.setdefault(setting, []).append(bench.run(run, corpora, control, arguments.output))
    table = {setting: kept(of_seeds) for setting, of_seeds in results.items()}
    table["base"] = {"prose_nll": round(bench.prose_nll(load_model(bench.base).eval()), 3)}
    figures: Json = {}
    memories = [setting for setting in results if setting.startswith("memory")]
    for ending, some in (("", memories), ("_alone", [s for s in memories if "rehearsal" not in s])):
        # The memory that knows most at the end, not the one that kept most, which may have learned nothing.
        best = min(some, key=lambda setting: table[setting]["nll"][1])
        figures |= {f"{key}{ending}": table[best][key] for key in ("kept_share", "kept_nats")}
        figures |= {f"best{ending}": best}
    print(json.dumps(figures | {"table": table}))


if __name__ == "__main__":
    main()
