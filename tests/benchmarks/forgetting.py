"""Learning against forgetting: full finetuning, LoRA and sparse memory, swept and compared at matched learning.

    python tests/benchmarks/forgetting.py [--quick] [--corpus people|demo|xquad] [--output FOLDER]

Training text: of invented people, sentences made from templates (`invented.py`); of the demo's documents and of
XQuAD's articles, their chunks and the rewrites that the pipeline makes of them (`active-reading export`, vLLM).
Learning: F1 and gold NLL of held-out questions, closed book, 5-shot, and the same of a control: questions of the
same kind about people or documents that are not taught. A model that has seen short answers finds every short
answer likelier; `nats` is the fall of the NLL beyond that on the control (a rise there adds nothing). Models are
compared at the same gold NLL, at the same F1 (beyond the control's) and at the same `nats`. Of a model that knows
all, nats say little: its NLL has no more room, and they rise when the control gets worse.
Forgetting: rise of the NLL against the untouched base on GSM8K problems with their solutions, gold NQ-open answers
(5-shot) and docstrings of Python's standard library; beside it the F1 of the model's own answers to NQ-open.
Nothing of these sets is in the background or replay text. The questions and answers that `own_texts` adds are the
base's own (not checked against these sets). WikiText-2 is reported apart. Seeds share what is prepared before a
training: a memory's keys, and own text. Every run's rate falls to 0 at its end. There it is measured with all that
it learned, and with shares of it (`train/strength.py`): a model that knows more than it is compared at is scaled
down to it. What is compared below the smallest share is interpolated from the untouched base, which overstates what
is lost there.
The runs' points go to `points.jsonl` as they come; a run that is there already is not made again. Without `--data`
(default: shared/data beside the project) only docstrings are measured. The last line of standard output is one JSON
object.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import transformers
from forgetting_corpora import Material, make_material, retention_sets
from forgetting_results import summarize

from active_reading.augment.identity import content_hash
from active_reading.eval.answers import ClosedBook
from active_reading.eval.questions import Question, few_shot_examples
from active_reading.eval.scores import f1
from active_reading.eval.texts import text_scores
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL
from active_reading.flows.stage_files import VERSIONS
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.precision import autocast, compute_dtype
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.strength import at_strength
from active_reading.train.student import PATCH_NAME
from active_reading.train.trainer import train_model

ROOT = Path(__file__).parents[2]
STRENGTHS = (0.4, 0.6, 0.8, 1.0)  # shares of what was learned


@dataclass(frozen=True)
class Run:
    """One training; `changes` are settings of `train` by dotted key."""

    method: Method
    rate: float
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def setting(self) -> str:
        """The run without its seed."""
        return " ".join([self.method, f"lr={self.rate}", *(f"{k}={v}" for k, v in sorted(self.changes.items()))])

    def identity(self, num_tokens: int) -> str:
        """Of all its settings, so that those of other defaults are not taken for it."""
        settings = train_settings(self.method, self.rate, num_tokens, self.seed, self.changes)
        decisive = settings.decisive(self.method), settings.background
        return content_hash(*decisive, VERSIONS["train"], STRENGTHS)


# What is taught alone is hard to find behind other text (EXPERIMENTS.md, 2026-11-29). Five texts are 290 tokens.
TOGETHER: dict[str, Any] = {"texts_per_sequence": 5, "batch_tokens": 256, "schedule": "linear"}
# Three times the default's memories, twice its rows: more is learned, and the patch has 39 MB in place of 7.
MEMORY: dict[str, Any] = {"memory.layers": list(range(0, 30, 2)), "memory.top_t": 2000}
BEST_RATES: dict[Method, float] = {"full": 2e-4, "lora": 5e-4, "memory": 0.02}
RATES: dict[Method, tuple[float, ...]] = {
    "full": (2e-5, 5e-5, 1e-4, 2e-4),
    "lora": (5e-5, 1e-4, 2e-4, 5e-4),
    "memory": (0.01, 0.02, 0.03, 0.04),
}
SEEDS = (0, 1, 2)


def quick_runs() -> list[Run]:
    """The best rate of each method; LoRA, which learns least, with one seed."""
    return [
        _run(method, rate, seed, {})
        for seed in SEEDS
        for method, rate in BEST_RATES.items()
        if method != "lora" or seed == SEEDS[0]
    ]


def full_runs() -> list[Run]:
    """Replay of 0, 1 and 5 %, and KL: four rates a method with one seed, the best of them with three."""
    changes: list[dict[str, Any]] = [{}, {"replay_share": 0.01}, {"replay_share": 0.05}, {"kl_weight": 0.5}]
    return [
        _run(method, rate, seed, change)
        for change in changes
        for method, rates in RATES.items()
        for rate in rates
        for seed in (SEEDS if rate == BEST_RATES[method] else SEEDS[:1])
    ]


def ablation_runs(seeds: Iterable[int]) -> list[Run]:
    """Memory as in the quick runs and with one thing changed at a time."""
    changes: list[dict[str, Any]] = [{}, {"texts_per_sequence": 1}]
    changes += [{"memory.layers": layers} for layers in ([2, 4, 6], [8, 10, 12], list(range(10, 30, 2)), None)]
    changes += [{"memory.new_text_weight": weight} for weight in (0.0, 1.0, 3.0)]
    changes += [{"memory.own_texts": number, "memory.new_text_weight": 0.0} for number in (120, 360)]
    changes += [{"memory.num_keys": 256, "memory.top_k": 8}, {"memory.num_keys": 64}]
    changes += [{"memory.top_k": 8}, {"memory.top_k": 32}]
    changes += [{"memory.slot_score": score} for score in ("random", "kl", "tf")]
    changes += [{"memory.top_t": t} for t in (400, 1000, 4000)]
    changes += [{"memory.damping": damping} for damping in (0.01, 0.1, 10.0)]
    changes += [{"memory.codebooks": "random"}, {"kl_weight": 0.5}]
    by_rms: list[dict[str, Any]] = [{"memory.update_rule": rule} for rule in ("row", "table")]
    runs = [(BEST_RATES["memory"], change) for change in changes] + [(0.1, change) for change in by_rms]
    return [_run("memory", rate, seed, change) for seed in seeds for rate, change in runs]


def _run(method: Method, rate: float, seed: int, changes: dict[str, Any]) -> Run:
    return Run(method, rate, seed, in_company(method, changes))


def in_company(method: Method, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes on top of how both benchmarks of forgetting teach."""
    return TOGETHER | (MEMORY if method == "memory" else {}) | changes


class Bench:
    """The material, the retention sets, and the base's scores on them."""

    def __init__(self, material: Material, data: Path) -> None:
        model = resolve_model(DEFAULT_MODEL)
        self.base_folder = str(model.folder)
        self.tokenizer = load_tokenizer(model.folder)
        self.material = material
        self.texts, self.shots, self.nq = retention_sets(data)
        questions = [*material.questions, *material.control, *self.shots, *self.nq, *few_shot_examples()]
        asked = [asdict(question) | {"place": ""} for question in questions]  # wherever the files lie
        self.identity = content_hash(material.texts, asked, self.texts, model.revision, str(compute_dtype()))
        self.base = self.measure(load_model(model.folder).eval())

    def measure(self, model: Any) -> dict[str, float]:
        """Mean scores; every NLL in nats per token."""
        training = model.training
        with autocast(model.device):
            scores = self._scores(model.eval())
        model.train(training)
        return scores

    def _scores(self, model: Any) -> dict[str, float]:
        book = ClosedBook(model, self.tokenizer, few_shot_examples(), 12)
        scores: dict[str, float] = {}
        for prefix, asked in (("", self.material.questions), ("control_", self.material.control)):
            scores |= {f"{prefix}{name}": score for name, score in closed_book(book, asked).items()}
        if self.nq:
            answered = closed_book(ClosedBook(model, self.tokenizer, self.shots, 12), self.nq)
            scores |= {"nq": answered["nll"], "nq_f1": answered["f1"]}
        for name, texts in self.texts.items():
            scores[name] = fmean(each.nll for each in text_scores(model, self.tokenizer, texts, 4))
        return scores

    def run(self, run: Run, num_tokens: int, points: Path, scratch: Path) -> None:
        """Train, and measure with shares of what was learned."""
        began, lines, steps = time.monotonic(), [], 0

        def on_progress(_: int, of: int, __: str) -> None:
            nonlocal steps
            steps = of

        def on_step(step: int, model: Any) -> None:
            if step == steps:
                for share in STRENGTHS:
                    with at_strength(model, run.method, self.base_folder, share):
                        scores = self.measure(model)
                    lines.append({"strength": share, **scores})
                    print(f"  {share} of it: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)

        shutil.rmtree(scratch, ignore_errors=True)
        summary = train_model(
            self.material.texts,
            self.base_folder,
            run.method,
            train_settings(run.method, run.rate, num_tokens, run.seed, run.changes),
            scratch,
            on_progress,
            groups=self.material.chunks,
            on_step=on_step,
            memories=scratch.parent / "memories",
        )
        patch = scratch / PATCH_NAME
        line = {
            "corpus": self.identity,
            "num_tokens": num_tokens,
            "run": asdict(run),
            "settings": run.identity(num_tokens),
            "setting": run.setting(),
            "points": lines,
            "base": self.base,
            "patch_megabytes": round(patch.stat().st_size / 1e6, 1) if patch.exists() else None,
            "summary": summary,
            "seconds": round(time.monotonic() - began),
        }
        with points.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def closed_book(book: ClosedBook, asked: list[Question]) -> dict[str, float]:
    """Mean F1 of the answers, and gold NLL in nats per token."""
    answers = book.ask(asked)
    pairs = zip(answers, asked, strict=True)
    return {
        "f1": fmean(f1(answer.text, list(question.answers)) for answer, question in pairs),
        "nll": fmean(answer.gold_nll for answer in answers),
    }


def train_settings(
    method: Method, rate: float, num_tokens: int, seed: int, changes: dict[str, Any]
) -> TrainSettings:
    """Of one training, by default at a rate that stays; `changes` by dotted key."""
    values: dict[str, Any] = {
        "num_tokens": num_tokens,
        "batch_tokens": 512,
        "schedule": "constant_with_warmup",
        "checkpoint_steps": 0,
        "seed": seed,
        "learning_rates": {method: rate},
    }
    for key, value in changes.items():
        *path, last = key.split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return TrainSettings.model_validate(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="7 runs, half an hour to three quarters on two cores; without it 72, eight hours",
    )
    parser.add_argument(
        "--ablation", action="store_true", help="memory alone, one thing changed at a time; with --quick, one seed"
    )
    parser.add_argument("--tokens", type=int, default=40_960, help="budget of a run")
    parser.add_argument("--corpus", choices=("people", "demo", "xquad"), default="people")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "forgetting")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    arguments.output.mkdir(parents=True, exist_ok=True)
    material = make_material(arguments.corpus, arguments.data, arguments.output, arguments.quick)
    bench = Bench(material, arguments.data)
    print(
        f"{len(bench.material.texts)} texts, {len(bench.material.questions)} questions; base",
        bench.base,
        flush=True,
    )
    points = arguments.output / "points.jsonl"
    if arguments.ablation:
        runs = ablation_runs((0,) if arguments.quick else (0, 1))
    else:
        runs = quick_runs() if arguments.quick else full_runs()
    for number, run in enumerate(runs, start=1):
        if run.identity(arguments.tokens) in _lines(points, bench.identity):
            continue
        print(f"run {number} of {len(runs)}: {run.setting()} seed {run.seed}", flush=True)
        bench.run(run, arguments.tokens, points, arguments.output / "scratch")
    made = _lines(points, bench.identity)
    print(json.dumps(summarize([made[run.identity(arguments.tokens)] for run in runs])))


def _lines(points: Path, corpus: str) -> dict[str, dict[str, Any]]:
    """The runs made on this corpus, by their settings."""
    if not points.exists():
        return {}
    lines = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()]
    return {line["settings"]: line for line in lines if line["corpus"] == corpus and "settings" in line}


if __name__ == "__main__":
    main()
