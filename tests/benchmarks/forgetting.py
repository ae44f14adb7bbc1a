"""Learning against forgetting: full finetuning, LoRA and sparse memory, swept and compared at matched learning.

    python tests/benchmarks/forgetting.py [--quick] [--corpus demo|xquad] [--output FOLDER]

Training text: the corpus's chunks and the rewrites that the pipeline makes of them (`active-reading export`,
real vLLM). Learning: gold NLL and F1 of held-out questions, closed book, 5-shot. Forgetting: rise of the NLL
against the untouched base on GSM8K answers, gold NQ-open answers (5-shot) and docstrings of Python's standard
library; nothing of their kind is in the background or replay text. WikiText-2 is reported apart.
Every run is measured several times on its way. The runs' points go to `points.jsonl` as they come; a run that
is there already is not made again. Without `--data` (default: shared/data beside the project) only docstrings
are measured. The last line of standard output is one JSON object.
"""

import argparse
import json
import random
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import transformers

from active_reading.augment.identity import content_hash
from active_reading.eval.answers import ClosedBook, text_nll
from active_reading.eval.evaluate import docstrings
from active_reading.eval.matched import best_learned, least_lost, lost_at, ratio_interval
from active_reading.eval.questions import Question, few_shot_examples, read_questions
from active_reading.eval.scores import f1
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, demo_study, load_study
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.trainer import train_model

ROOT = Path(__file__).parents[2]
OUT_OF_FAMILY = ("gsm8k", "nq", "docstrings")


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


def quick_runs() -> list[Run]:
    """About 35 minutes on two cores."""
    return [
        Run(method, rate, seed)
        for seed in (0, 1)
        for method, rate in (("full", 5e-5), ("lora", 2e-4), ("memory", 0.1))  # type: ignore[misc]
    ]


def full_runs() -> list[Run]:
    """Four rates a method, three seeds, replay 0, 1 and 5 %, KL off and on."""
    rates: dict[Method, tuple[float, ...]] = {
        "full": (1e-5, 2e-5, 5e-5, 1e-4),
        "lora": (5e-5, 1e-4, 2e-4, 5e-4),
        "memory": (0.03, 0.1, 0.2, 0.4),
    }
    return [
        Run(method, rate, seed, changes)
        for changes in (
            {},
            {"replay_share": 0.01},
            {"replay_share": 0.05},
            {"kl_weight": 0.5},
            {"replay_share": 0.05, "kl_weight": 0.5},
        )
        for method, choices in rates.items()
        for rate in choices
        for seed in (0, 1, 2)
    ]


class Bench:
    """The corpus's texts and questions, the retention sets, and the base's scores on them."""

    def __init__(self, study: Study, num_documents: int, data: Path) -> None:
        model = resolve_model(study.model)
        self.base_folder = model.folder
        self.tokenizer = load_tokenizer(model.folder)
        rows = pl.read_parquet(run_plain(study, "export") / "data" / "text" / "*.parquet")
        sources = sorted(rows["source"].unique())[: num_documents or None]
        self.rows = rows.filter(pl.col("source").is_in(sources))
        assert study.evaluate.questions
        asked = read_questions(Path(study.evaluate.questions))
        self.questions = [question for question in asked if question.document in sources]
        self.texts, self.shots, self.nq = _retention(data)
        self.identity = content_hash(
            self.rows["text"].to_list(), [q.question for q in self.questions], model.revision
        )
        self.base = self.measure(load_model(model.folder).eval())

    def measure(self, model: Any) -> dict[str, float]:
        """Mean scores; every NLL in nats per token."""
        training = model.training
        model.eval()
        book = ClosedBook(model, self.tokenizer, few_shot_examples(), 12)
        answers = book.answer(self.questions)
        scores = {
            "f1": fmean(f1(answer, list(q.answers)) for answer, q in zip(answers, self.questions, strict=True)),
            "nll": fmean(book.answer_nll(self.questions)),
        }
        if self.nq:
            scores["nq"] = fmean(ClosedBook(model, self.tokenizer, self.shots, 12).answer_nll(self.nq))
        scores |= {name: fmean(text_nll(model, self.tokenizer, texts, 4)) for name, texts in self.texts.items()}
        model.train(training)
        return scores

    def run(self, run: Run, num_tokens: int, points: Path, scratch: Path) -> None:
        """Train, measuring at a quarter, half, three quarters and the end."""
        values: dict[str, Any] = {
            "num_tokens": num_tokens,
            "batch_tokens": 512,
            "schedule": "constant_with_warmup",
            "checkpoint_steps": 0,
            "seed": run.seed,
            "learning_rates": {run.method: run.rate},
        }
        for key, value in run.changes.items():
            *path, last = key.split(".")
            place = values
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value
        began, lines = time.monotonic(), []

        def on_step(step: int, model: Any) -> None:
            if step in at:
                scores = self.measure(model)
                lines.append({"step": step, **scores})
                print(f"  step {step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)

        steps = num_tokens // 512
        at = {round(steps * share) for share in (0.25, 0.5, 0.75, 1.0)}
        summary = train_model(
            self.rows["text"].to_list(),
            str(self.base_folder),
            run.method,
            TrainSettings.model_validate(values),
            scratch,
            lambda *_: None,
            groups=self.rows["chunk_id"].to_list(),
            on_step=on_step,
        )
        shutil.rmtree(scratch)
        line = {
            "corpus": self.identity,
            "num_tokens": num_tokens,
            "run": asdict(run),
            "setting": run.setting(),
            "points": lines,
            "base": self.base,
            "summary": summary,
            "seconds": round(time.monotonic() - began),
        }
        with points.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _retention(data: Path) -> tuple[dict[str, list[str]], list[Question], list[Question]]:
    """Texts by name, and NQ-open's worked examples and questions; fixed draws."""
    texts = {"docstrings": docstrings()[::2]}
    if not data.is_dir():
        print(f"skipped: no {data}; forgetting is measured on docstrings alone")
        return texts, [], []
    chooser = random.Random(0)

    def drawn(name: str, count: int) -> list[str]:
        return chooser.sample((data / name).read_text(encoding="utf-8").splitlines(), count)

    nq = [json.loads(line) for line in drawn("nq_open_dev.jsonl", 65)]
    questions = [Question(f"{row['question'].rstrip('?')}?", tuple(row["answer"])) for row in nq]
    problems = [json.loads(line) for line in drawn("gsm8k_test.jsonl", 20)]
    texts["gsm8k"] = [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in problems]
    prose = (data / "wikitext2_test.txt").read_text(encoding="utf-8").splitlines()
    texts["wikitext2"] = chooser.sample([line.strip() for line in prose if 300 < len(line) < 900], 15)
    return texts, questions[:5], questions[5:]


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The comparison at matched learning, per replay share, from the lines of `points.jsonl`."""
    base = lines[0]["base"]
    kept = [name for name in OUT_OF_FAMILY if name in base]

    def trajectory(line: dict[str, Any]) -> list[tuple[float, float]]:
        """(fall of gold NLL, mean rise of NLL on the retention sets) along the run."""
        return [(base["nll"] - p["nll"], fmean(p[name] - base[name] for name in kept)) for p in line["points"]]

    shares = sorted({float(line["run"]["changes"].get("replay_share", 0.0)) for line in lines})
    result: dict[str, Any] = {"retention": kept, "by_replay_share": {}}
    ratios: dict[str, list[float]] = {"full": [], "lora": []}
    for share in shares:
        of_method: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
        for line in lines:
            if float(line["run"]["changes"].get("replay_share", 0.0)) == share:
                settings = of_method.setdefault(line["run"]["method"], {})
                settings.setdefault(line["setting"], []).append(trajectory(line))
        block: dict[str, Any] = {}
        for method in ("full", "lora"):
            if method not in of_method or "memory" not in of_method:
                continue
            target = 0.9 * best_learned([t for seeds in of_method[method].values() for t in seeds])
            theirs, ours = least_lost(of_method[method], target), least_lost(of_method["memory"], target)
            entry: dict[str, Any] = {"target_nats": round(target, 3), method: theirs, "memory": ours}
            if theirs and ours:
                losses = [
                    [loss for t in of_method[name][best[0]] if (loss := lost_at(t, target)) is not None]
                    for name, best in (("memory", ours), (method, theirs))
                ]
                entry["ratio"] = round(ours[1] / theirs[1], 3)
                entry["interval_over_seeds"] = ratio_interval(*losses)
                ratios[method].append(ours[1] / theirs[1])
            block[f"memory_over_{method}"] = entry
        result["by_replay_share"][str(share)] = block
    best_f1 = {
        method: max(
            (p["f1"] for line in lines if line["run"]["method"] == method for p in line["points"]), default=0
        )
        for method in ("full", "lora", "memory")
    }
    best_nats = {
        method: best_learned([trajectory(line) for line in lines if line["run"]["method"] == method])
        for method in ("full", "lora", "memory")
    }
    return result | {
        "smf_over_full": round(fmean(ratios["full"]), 3) if ratios["full"] else None,
        "smf_over_lora": round(fmean(ratios["lora"]), 3) if ratios["lora"] else None,
        "learning_ratio": round(best_f1["memory"] / best_f1["full"], 3) if best_f1["full"] else None,
        "learning_ratio_nats": round(best_nats["memory"] / best_nats["full"], 3) if best_nats["full"] else None,
        "best_f1": best_f1,
        "best_nats": best_nats,
        "seeds": len({line["run"]["seed"] for line in lines}),
        "runs": len(lines),
    }


def _study(arguments: argparse.Namespace) -> Study:
    if arguments.corpus == "demo":
        return demo_study([f"output={arguments.output / 'demo'}"])
    return load_study(str(_xquad_folder(arguments)), [f"output={arguments.output / 'xquad'}"])


def _xquad_folder(arguments: argparse.Namespace) -> Path:
    """Eight articles as one file each, with their questions beside them."""
    folder: Path = arguments.output / "xquad-documents"
    folder.mkdir(parents=True, exist_ok=True)
    articles = json.loads((arguments.data / "xquad_en_24_articles.json").read_text(encoding="utf-8"))["data"][:8]
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for article in articles:
            name = f"{article['title']}.txt"
            paragraphs = article["paragraphs"]
            (folder / name).write_text("\n\n".join(p["context"] for p in paragraphs), encoding="utf-8")
            for question in (qa for paragraph in paragraphs for qa in paragraph["qas"]):
                answers = [answer["text"] for answer in question["answers"]]
                row = {"question": question["question"], "answers": answers, "document": name}
                file.write(json.dumps(row) + "\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="6 runs on 10 documents, under 40 minutes on two cores"
    )
    parser.add_argument("--corpus", choices=("demo", "xquad"), default="demo")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "forgetting")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    arguments.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(_study(arguments), 10 if arguments.quick else 0, arguments.data)
    num_tokens = 30_000 if arguments.quick else 120_000
    print(f"{bench.rows.height} texts, {len(bench.questions)} questions; base", bench.base, flush=True)
    points = arguments.output / "points.jsonl"
    runs = quick_runs() if arguments.quick else full_runs()
    for number, run in enumerate(runs, start=1):
        if any(line["run"] == asdict(run) for line in _lines(points, bench.identity, num_tokens)):
            continue
        print(f"run {number} of {len(runs)}: {run.setting()} seed {run.seed}", flush=True)
        bench.run(run, num_tokens, points, arguments.output / "scratch")
    print(json.dumps(summarize(_lines(points, bench.identity, num_tokens))))


def _lines(points: Path, identity: str, num_tokens: int) -> list[dict[str, Any]]:
    """The runs made on this corpus with this budget."""
    if not points.exists():
        return []
    lines = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["corpus"] == identity and line["num_tokens"] == num_tokens]


if __name__ == "__main__":
    main()
