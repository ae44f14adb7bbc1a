"""Learning against forgetting: full finetuning, LoRA and sparse memory, swept and compared at matched learning.

    python tests/benchmarks/forgetting.py [--quick] [--corpus people|demo|xquad] [--output FOLDER]

Training text: of invented people, sentences made from templates (`invented.py`); of the demo's documents and of
XQuAD's articles, their chunks and the rewrites that the pipeline makes of them (`active-reading export`, vLLM).
Learning: F1 and gold NLL of held-out questions, closed book, 5-shot. A model that has seen short answers finds
every short answer likelier; so `known_nats`, what is compared, is the fall of the NLL beyond that on a control: the
same kind of questions about people or documents that are not taught.
Forgetting: rise of the NLL against the untouched base on GSM8K answers, gold NQ-open answers (5-shot) and
docstrings of Python's standard library; nothing of their kind is in the background or replay text. WikiText-2 is
reported apart.
Every run is measured several times on its way. The runs' points go to `points.jsonl` as they come; a run that
is there already is not made again. Without `--data` (default: shared/data beside the project) only docstrings
are measured. The last line of standard output is one JSON object.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
import transformers
from invented import invented_corpora

from active_reading.augment.identity import content_hash
from active_reading.eval.answers import ClosedBook, text_nll
from active_reading.eval.matched import best_learned, least_lost, lost_at, ratio_interval
from active_reading.eval.questions import Question, docstrings, few_shot_examples, read_questions
from active_reading.eval.scores import f1, mean_and_error
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import DEFAULT_MODEL, Study, demo_study, load_study
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.student import PATCH_NAME
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


RATES: dict[Method, tuple[float, ...]] = {
    "full": (1e-5, 2e-5, 5e-5, 1e-4),
    "lora": (5e-5, 1e-4, 2e-4, 5e-4),
    "memory": (0.003, 0.01, 0.02, 0.04),
}


def quick_runs() -> list[Run]:
    """Under 40 minutes on two cores."""
    rates: dict[Method, float] = {"full": 5e-5, "lora": 2e-4, "memory": 0.02}
    return [Run(method, rate, seed) for seed in (0, 1, 2) for method, rate in rates.items()]


def full_runs() -> list[Run]:
    """Four rates a method, three seeds, replay 0, 1 and 5 %, KL off and on."""
    return [
        Run(method, rate, seed, changes)
        for changes in (
            {},
            {"replay_share": 0.01},
            {"replay_share": 0.05},
            {"kl_weight": 0.5},
            {"replay_share": 0.05, "kl_weight": 0.5},
        )
        for method, choices in RATES.items()
        for rate in choices
        for seed in (0, 1, 2)
    ]


def ablation_runs() -> list[Run]:
    """Memory with one setting changed at a time, at the rate of the quick runs, two seeds."""
    changes: list[dict[str, Any]] = [{"memory.slot_score": score} for score in ("kl", "tf", "random")] + [
        {"memory.top_t": t} for t in (500, 1000, 2000, 8000)
    ]
    changes += [{"memory.num_keys": keys} for keys in (64, 256)]
    changes += [{"memory.layers": layers} for layers in ([1, 2, 3], [8, 10, 12], [1, 2, 3, 4, 5, 6])]
    changes += [{"memory.damping": damping} for damping in (0.01, 1.0)]
    changes += [{"memory.codebooks": "random"}, {"question_loss": "answer"}, {"kl_weight": 0.5}]
    runs = [Run("memory", 0.02, seed, change) for change in changes for seed in (0, 1)]
    for rule, rate in (("row", 0.1), ("table", 0.1)):
        runs += [Run("memory", rate, seed, {"memory.update_rule": rule, "memory.top_t": 2000}) for seed in (0, 1)]
    return runs


@dataclass(frozen=True)
class Material:
    """What is taught, and what is asked: of it, and of what is not taught."""

    texts: list[str]
    chunks: list[str]
    questions: list[Question]
    control: list[Question]


def people(count: int) -> Material:
    """Invented people, of whom each is a chunk."""
    taught, control = invented_corpora(2, count, seed=0)
    per_person = len(taught.texts) // count
    chunks = [str(number // per_person) for number in range(len(taught.texts))]
    return Material(taught.texts, chunks, taught.questions, control.questions[: len(taught.questions) // 2])


def documents(study: Study, num_taught: int) -> Material:
    """The first documents of a corpus, and what the pipeline made of them."""
    rows = pl.read_parquet(run_plain(study, "export") / "data" / "text" / "*.parquet")
    taught = sorted(rows["source"].unique())[:num_taught]
    rows = rows.filter(pl.col("source").is_in(taught))
    assert study.evaluate.questions
    asked = read_questions(Path(study.evaluate.questions))
    control = [question for question in asked if question.document not in taught]
    return Material(
        rows["text"].to_list(),
        rows["chunk_id"].to_list(),
        [question for question in asked if question.document in taught],
        random.Random(0).sample(control, min(40, len(control))),
    )


class Bench:
    """The material, the retention sets, and the base's scores on them."""

    def __init__(self, material: Material, data: Path) -> None:
        model = resolve_model(DEFAULT_MODEL)
        self.base_folder = str(model.folder)
        self.tokenizer = load_tokenizer(model.folder)
        self.material = material
        self.texts, self.shots, self.nq = _retention(data)
        asked = [question.question for question in material.questions + material.control]
        self.identity = content_hash(material.texts, asked, model.revision)
        self.base = self.measure(load_model(model.folder).eval())

    def measure(self, model: Any) -> dict[str, float]:
        """Mean scores; every NLL in nats per token."""
        training = model.training
        model.eval()
        asked = self.material.questions
        book = ClosedBook(model, self.tokenizer, few_shot_examples(), 12)
        answers = book.answer(asked)
        scores = {
            "f1": fmean(f1(answer, list(q.answers)) for answer, q in zip(answers, asked, strict=True)),
            "nll": fmean(book.answer_nll(asked)),
            "control_nll": fmean(book.answer_nll(self.material.control)),
        }
        if self.nq:
            scores["nq"] = fmean(ClosedBook(model, self.tokenizer, self.shots, 12).answer_nll(self.nq))
        scores |= {name: fmean(text_nll(model, self.tokenizer, texts, 4)) for name, texts in self.texts.items()}
        model.train(training)
        return scores

    def run(self, run: Run, num_tokens: int, points: Path, scratch: Path) -> None:
        """Train, measuring at a quarter, half, three quarters and the end."""
        began, lines = time.monotonic(), []

        def on_step(step: int, model: Any) -> None:
            if step in at:
                scores = self.measure(model)
                lines.append({"step": step, **scores})
                print(f"  step {step}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)

        steps = num_tokens // 512
        at = {round(steps * share) for share in (0.25, 0.5, 0.75, 1.0)}
        shutil.rmtree(scratch, ignore_errors=True)
        summary = train_model(
            self.material.texts,
            self.base_folder,
            run.method,
            constant_rate(run.method, run.rate, num_tokens, run.seed, run.changes),
            scratch,
            lambda *_: None,
            groups=self.material.chunks,
            on_step=on_step,
            memories=scratch.parent / "memories",
        )
        patch = scratch / PATCH_NAME
        line = {
            "corpus": self.identity,
            "num_tokens": num_tokens,
            "run": asdict(run),
            "setting": run.setting(),
            "points": lines,
            "base": self.base,
            "patch_megabytes": round(patch.stat().st_size / 1e6, 1) if patch.exists() else None,
            "summary": summary,
            "seconds": round(time.monotonic() - began),
        }
        with points.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def constant_rate(
    method: Method, rate: float, num_tokens: int, seed: int, changes: dict[str, Any]
) -> TrainSettings:
    """Settings under which a training may be measured at any step; `changes` by dotted key."""
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


Trajectory = list[tuple[float, float]]


def summarize(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The comparison at matched learning, per replay share, from the lines of `points.jsonl`."""
    base = lines[0]["base"]
    kept = [name for name in OUT_OF_FAMILY if name in base]

    def lost(point: dict[str, float]) -> float:
        return fmean(point[name] - base[name] for name in kept)

    def known_nats(point: dict[str, float]) -> float:
        return base["nll"] - point["nll"] - (base["control_nll"] - point["control_nll"])

    def by_nats(line: dict[str, Any]) -> Trajectory:
        return [(known_nats(point), lost(point)) for point in line["points"]]

    def by_f1(line: dict[str, Any]) -> Trajectory:
        return [(point["f1"] - base["f1"], lost(point)) for point in line["points"]]

    shares = sorted({_replay_share(line) for line in lines})
    result: dict[str, Any] = {"retention": kept}
    for measure, trajectory in (("nats", by_nats), ("f1", by_f1)):
        tables = {
            share: matched([line for line in lines if _replay_share(line) == share], trajectory) for share in shares
        }
        result[f"matched_by_{measure}"] = tables
        for method in ("full", "lora"):
            ratios = [
                entry["ratio"] for table in tables.values() if (entry := table.get(method)) and "ratio" in entry
            ]
            suffix = "" if measure == "nats" else "_by_f1"
            result[f"smf_over_{method}{suffix}"] = round(fmean(ratios), 3) if ratios else None
    methods = sorted({line["run"]["method"] for line in lines})
    result["best_f1"] = {
        method: max(p["f1"] for line in lines if line["run"]["method"] == method for p in line["points"])
        for method in methods
    }
    result["best_nats"] = {
        method: round(best_learned([by_nats(line) for line in lines if line["run"]["method"] == method]), 3)
        for method in methods
    }
    for measure, name in (("best_f1", "learning_ratio"), ("best_nats", "learning_ratio_nats")):
        of = result[measure]
        result[name] = round(of["memory"] / of["full"], 3) if of.get("full") and "memory" in of else None
    result["curves"] = curves(lines, known_nats, lost)
    result["patch_megabytes"] = max((line["patch_megabytes"] or 0 for line in lines), default=0)
    result["seeds"] = len({line["run"]["seed"] for line in lines})
    return result | {"runs": len(lines)}


def matched(lines: list[dict[str, Any]], trajectory: Callable[[dict[str, Any]], Trajectory]) -> dict[str, Any]:
    """Against full finetuning and LoRA: what memory has lost when it knows 0.9 of the most that they learned.

    Where memory never knows as much, the target is 0.9 of the most that memory learned, and `reached` is false.
    """
    of_method: dict[str, dict[str, list[Trajectory]]] = {}
    for line in lines:
        settings = of_method.setdefault(line["run"]["method"], {})
        settings.setdefault(line["setting"], []).append(trajectory(line))
    table: dict[str, Any] = {}
    for method in ("full", "lora"):
        if method not in of_method or "memory" not in of_method:
            continue
        bests = [best_in_the_mean(of_method[name]) for name in (method, "memory")]
        target = 0.9 * min(bests)
        theirs, ours = least_lost(of_method[method], target), least_lost(of_method["memory"], target)
        entry: dict[str, Any] = {"target": round(target, 3), "reached": bests[0] <= bests[1]}
        if theirs and ours:
            losses = [
                [loss for each in of_method[name][best[0]] if (loss := lost_at(each, target)) is not None]
                for name, best in (("memory", ours), (method, theirs))
            ]
            entry |= {"memory": ours, method: theirs, "ratio": round(ours[1] / theirs[1], 3)}
            entry["interval_over_seeds"] = ratio_interval(*losses)
        table[method] = entry
    return table


def best_in_the_mean(settings: dict[str, list[Trajectory]]) -> float:
    """The most that a setting learned in every seed of it."""
    return max(min(best_learned([each]) for each in seeds) for seeds in settings.values())


def curves(
    lines: list[dict[str, Any]],
    known: Callable[[dict[str, float]], float],
    lost: Callable[[dict[str, float]], float],
) -> dict[str, list[dict[str, float]]]:
    """Per setting and step: means over seeds, each with its standard error."""
    by_setting: dict[str, list[list[dict[str, float]]]] = {}
    for line in lines:
        by_setting.setdefault(line["setting"], []).append(line["points"])
    found: dict[str, list[dict[str, float]]] = {}
    for setting, seeds in by_setting.items():
        for points in zip(*seeds, strict=True):
            row: dict[str, float] = {"step": points[0]["step"], "seeds": len(points)}
            for name, values in (
                ("f1", [point["f1"] for point in points]),
                ("nats", [known(point) for point in points]),
                ("lost", [lost(point) for point in points]),
            ):
                mean, error = mean_and_error(values)
                row |= {name: round(mean, 4), f"{name}_error": round(error, 4)}
            found.setdefault(setting, []).append(row)
    return found


def _replay_share(line: dict[str, Any]) -> float:
    return float(line["run"]["changes"].get("replay_share", 0.0))


def _material(arguments: argparse.Namespace) -> Material:
    if arguments.corpus == "people":
        return people(8)
    if arguments.corpus == "demo":
        return documents(demo_study([f"output={arguments.output / 'demo'}"]), 10 if arguments.quick else 20)
    study = load_study(str(_xquad_folder(arguments)), [f"output={arguments.output / 'xquad'}"])
    return documents(study, 8)


def _xquad_folder(arguments: argparse.Namespace) -> Path:
    """Ten articles as one file each, with their questions beside them."""
    folder: Path = arguments.output / "xquad-documents"
    folder.mkdir(parents=True, exist_ok=True)
    articles = json.loads((arguments.data / "xquad_en_24_articles.json").read_text(encoding="utf-8"))["data"][:10]
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
    parser.add_argument("--quick", action="store_true", help="9 runs, under 40 minutes on two cores")
    parser.add_argument("--ablation", action="store_true", help="memory alone, one setting changed at a time")
    parser.add_argument("--corpus", choices=("people", "demo", "xquad"), default="people")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "forgetting")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    arguments.output.mkdir(parents=True, exist_ok=True)
    bench = Bench(_material(arguments), arguments.data)
    num_tokens = 20_480 if arguments.quick else 61_440
    print(
        f"{len(bench.material.texts)} texts, {len(bench.material.questions)} questions; base",
        bench.base,
        flush=True,
    )
    points = arguments.output / "points.jsonl"
    runs = quick_runs() if arguments.quick else ablation_runs() if arguments.ablation else full_runs()
    for number, run in enumerate(runs, start=1):
        if any(line["run"] == asdict(run) for line in _lines(points, bench.identity, num_tokens)):
            continue
        print(f"run {number} of {len(runs)}: {run.setting()} seed {run.seed}", flush=True)
        bench.run(run, num_tokens, points, arguments.output / "scratch")
    made = [line for line in _lines(points, bench.identity, num_tokens) if Run(**line["run"]) in runs]
    print(json.dumps(summarize(made)))


def _lines(points: Path, identity: str, num_tokens: int) -> list[dict[str, Any]]:
    """The runs made on this corpus with this budget."""
    if not points.exists():
        return []
    lines = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["corpus"] == identity and line["num_tokens"] == num_tokens]


if __name__ == "__main__":
    main()
