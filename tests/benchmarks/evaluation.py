"""Is the evaluation right, and is it fast? Agreement with references, coverage of intervals, speed against lm_eval.

    python tests/benchmarks/evaluation.py --quick
    python tests/benchmarks/evaluation.py --tasks nq_open_local=nq_open_dev.jsonl wikitext_local=wikitext2_test.txt

Without --tasks the harness's tasks run on the general questions that ship with the package. The last line is JSON:
`over_lm_eval`: seconds of lm_eval's `hf` backend over ours, for answering and scoring the same questions behind the
same worked examples; `max_score_difference`: the largest difference of any F1 or exact match on 1,000 random pairs
from a second writing of SQuAD's rules, and of any score of the harness's tasks through us and through lm_eval
itself; `coverage_95`: of all intervals' coverages, at 95 % and over 1,000 simulations, the one farthest from it.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from active_reading.eval.matched import ratio_interval
from active_reading.eval.paired import mean_difference, mean_of_differences
from active_reading.eval.questions import few_shot_examples, general_questions
from active_reading.eval.scores import exact_match, f1
from active_reading.eval.seeds import crossed_difference

SIMULATIONS = 1000
SEED = 20251125


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="48 questions in place of 1,000")
    parser.add_argument("--tasks", nargs="*", default=[], metavar="NAME=FILE", help="tasks of ours, and their data")
    parser.add_argument("--limit", type=int, default=8, help="items of each task")
    parser.add_argument(
        "--statistics-only", action="store_true", help="no model: agreement with SQuAD, and coverage"
    )
    arguments = parser.parse_args()
    coverages = {name: covered(draw) for name, draw in interval_draws().items()}
    for name, share in coverages.items():
        print(f"coverage of {name}: {share:.3f}")
    for spreads in ((0.1, 0.3), (0.5, 0.3)):
        share = covered(lambda rng, spreads=spreads: bootstrapped(rng, 3, *spreads))
        print(f"not used: percentile bootstrap over 3 seeds and 140 items, spreads {spreads}: {share:.3f}")
    difference = largest_difference_from_squad()
    print(f"F1 and exact match on 1,000 pairs: largest difference {difference}")
    found: dict[str, Any] = {"coverages": coverages}
    found["coverage_95"] = max(coverages.values(), key=lambda share: abs(share - 0.95))
    found["max_score_difference"] = difference
    if not arguments.statistics_only:
        model = embedded_model()
        between = difference_from_lm_eval(model, arguments.tasks, arguments.limit)
        found["max_score_difference"] = max(difference, between)
        found |= speed(model, 48 if arguments.quick else 1000)
    print(json.dumps(found))


# Agreement


def squad_words(text: str) -> list[str]:
    """SQuAD's normalization, written again from its description, without regular expressions."""
    kept = "".join(sign for sign in text.lower() if sign not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    # An article is a whole word between signs that are no word characters.
    words, word = [], ""
    for sign in kept + " ":
        if sign.isalnum() or sign == "_":
            word += sign
            continue
        words.append(" " if word in ("a", "an", "the") else word)
        words.append(sign)
        word = ""
    return "".join(words).split()


def squad_scores(answer: str, accepted: list[str]) -> tuple[float, float]:
    """(exact match, F1): the best over the accepted answers."""
    best_match = best_f1 = 0.0
    for gold in accepted:
        mine, theirs = squad_words(answer), squad_words(gold)
        best_match = max(best_match, float(" ".join(mine) == " ".join(theirs)))
        if not mine or not theirs:
            best_f1 = max(best_f1, float(mine == theirs))
            continue
        left, same = list(theirs), 0
        for word in mine:
            if word in left:
                left.remove(word)
                same += 1
        if same:
            precision, recall = same / len(mine), same / len(theirs)
            best_f1 = max(best_f1, 2 * precision * recall / (precision + recall))
    return best_match, best_f1


def largest_difference_from_squad(pairs: int = 1000) -> float:
    """Over random answers of words, articles, punctuation and odd spaces, each with up to three accepted ones."""
    rng = random.Random(SEED)
    plain = "the The a an AN theory an, the. 1921 14th U.S. don't co-op _x_ (b) - -- A.".split()
    words = [*plain, "Z\u00fcrich", "\u6771\u4eac", "\u00df", "\u2019s", "\u00a0", "\n", "\t"]

    def text() -> str:
        return rng.choice(["", " ", "  "]).join(rng.choice(words) for _ in range(rng.randint(0, 6)))

    largest = 0.0
    for _ in range(pairs):
        answer, accepted = (
            " ".join(rng.choices(words, k=rng.randint(0, 6))),
            [text() for _ in range(rng.randint(1, 3))],
        )
        if rng.random() < 0.3:
            accepted.append(f"the {answer}!")
        match, overlap = squad_scores(answer, accepted)
        largest = max(largest, abs(exact_match(answer, accepted) - match), abs(f1(answer, accepted) - overlap))
    return largest


def task_uses(names: list[str], limit: int, folder: Path) -> list[Any]:
    from active_reading.eval.settings import TaskUse

    if not names:
        rows = [{"question": q.question.rstrip("?"), "answer": list(q.answers)} for q in general_questions()]
        data = folder / "general.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        names = [f"nq_open_local={data}", f"nq_open_nll_local={data}"]
    pairs = [name.partition("=") for name in names]
    return [TaskUse(name=name, data=data, limit=limit) for name, _, data in pairs]


def difference_from_lm_eval(model: Path, names: list[str], limit: int) -> float:
    """The largest difference of any score of the tasks, through us and through the harness alone."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from active_reading.eval.harness import ROLLING, load_definition, run_tasks
    from active_reading.train.load import load_model, load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        uses = task_uses(names, limit, Path(folder))
        plain: dict[str, Any] = {}
        for definition in (load_definition(use) for use in uses):
            plain |= lm_eval.simple_evaluate(
                "hf",
                model_args={"pretrained": str(model), "dtype": "float32", "device": "cpu"},
                tasks=[definition],
                task_manager=TaskManager(include_defaults=False),
                limit=limit,
                batch_size=1 if definition["output_type"] == ROLLING else 8,
                bootstrap_iters=0,
            )["results"]
        run_tasks(
            load_model(model).eval(),
            load_tokenizer(model),
            uses,
            "ours",
            8,
            Path(folder, "cache"),
            Path(folder, "ours"),
        )
        largest = 0.0
        for file in Path(folder, "ours").rglob("results_*.json"):
            for task, scores in json.loads(file.read_text(encoding="utf-8"))["results"].items():
                for name, value in scores.items():
                    if isinstance(value, float) and isinstance(plain[task][name], float):
                        print(f"{task} {name}: {value} through us, {plain[task][name]} through lm_eval")
                        largest = max(largest, abs(value - plain[task][name]))
    return largest


# Coverage: (interval, truth) of one simulated experiment

Draw = Callable[[np.random.Generator], tuple[tuple[float, float] | None, float]]


def interval_draws() -> dict[str, Draw]:
    return {
        "mean_difference of NLL": nll_difference,
        "mean_difference of F1": f1_difference,
        "mean_of_differences": three_sets,
        "crossed_difference, 3 seeds alike": lambda rng: crossed(rng, 3, 0.1, 1.0),
        "crossed_difference, 3 seeds as unlike as 140 items": lambda rng: crossed(rng, 3, 0.1, 0.3),
        "crossed_difference, 3 seeds unlike": lambda rng: crossed(rng, 3, 0.5, 0.3),
        "crossed_difference, 5 seeds": lambda rng: crossed(rng, 5, 0.1, 0.3),
        "ratio_interval, 3 seeds": lambda rng: ratio(rng, 3, 1.0),
        "ratio_interval, 5 seeds": lambda rng: ratio(rng, 5, 1.0),
        "ratio_interval, 3 seeds, ours quieter": lambda rng: ratio(rng, 3, 0.2),
    }


def covered(draw: Draw) -> float:
    """Share of experiments whose interval holds the truth; one without bounds holds everything."""
    rng = np.random.default_rng(SEED)
    held = 0
    for _ in range(SIMULATIONS):
        bounds, truth = draw(rng)
        held += bounds is None or bounds[0] <= truth <= bounds[1]
    return held / SIMULATIONS


def nll_difference(rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    before = rng.gamma(2.0, 2.0, 40)  # skewed, as losses of answers are
    found = mean_difference(before.tolist(), (before + rng.gamma(2.0, 0.2, 40) - 0.7).tolist())
    return (found["low"], found["high"]), 2.0 * 0.2 - 0.7


def f1_difference(rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    """Three in ten questions change, up more often than down."""
    steps, chances = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.array([0.04, 0.04, 0.70, 0.10, 0.12])
    found = mean_difference([0.0] * 140, rng.choice(steps, 140, p=chances).tolist())
    return (found["low"], found["high"]), float(steps @ chances)


def three_sets(rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    parts = []
    for size, mean, spread in ((40, 0.1, 0.5), (24, 0.3, 0.1), (110, -0.1, 1.0)):
        parts.append((size, mean_difference([0.0] * size, rng.normal(mean, spread, size).tolist())))
    found = mean_of_differences(parts)
    return (found["low"], found["high"]), 0.1


def crossed(
    rng: np.random.Generator, seeds: int, of_seed: float, of_item: float
) -> tuple[tuple[float, float], float]:
    """140 questions; standard deviations of seeds and of items, beside 1 of each answer."""
    found = crossed_difference(crossed_table(rng, seeds, of_seed, of_item).tolist())
    return (found["low"], found["high"]), 0.0


def crossed_table(rng: np.random.Generator, seeds: int, of_seed: float, of_item: float) -> Any:
    items = (rng.gamma(2.0, 1.0, (1, 140)) - 2.0) / 2**0.5  # skewed, as losses of answers are
    return rng.normal(0, 1, (seeds, 140)) + rng.normal(0, of_seed, (seeds, 1)) + of_item * items


def bootstrapped(
    rng: np.random.Generator, seeds: int, of_seed: float, of_item: float
) -> tuple[tuple[float, float], float]:
    """What is not used: the percentiles of 300 means over seeds and items drawn with replacement."""
    table = crossed_table(rng, seeds, of_seed, of_item)
    rows, columns = rng.integers(0, seeds, (300, seeds, 1)), rng.integers(0, 140, (300, 1, 140))
    low, high = np.percentile(table[rows, columns].mean((1, 2)), [2.5, 97.5])
    return (float(low), float(high)), 0.0


def ratio(rng: np.random.Generator, seeds: int, quieter: float) -> tuple[tuple[float, float] | None, float]:
    ours, theirs = rng.normal(0.10, 0.03 * quieter, seeds), rng.normal(0.40, 0.03, seeds)
    return ratio_interval(ours.tolist(), theirs.tolist()), 0.25


# Speed


def embedded_model() -> Path:
    from active_reading.flows.models import resolve_model
    from active_reading.flows.settings import DEFAULT_MODEL

    return resolve_model(DEFAULT_MODEL).folder


def speed(model: Path, count: int) -> dict[str, Any]:
    """Seconds to answer `count` questions and to score their gold answers, here and by lm_eval's `hf` backend."""
    from active_reading.eval.answers import ClosedBook
    from active_reading.eval.texts import batched
    from active_reading.train.load import load_model, load_tokenizer

    questions = [q for _, q in zip(range(count), general_questions() * (count // 10 + 1), strict=False)]
    began = time.monotonic()
    book = ClosedBook(load_model(model).eval(), load_tokenizer(model), few_shot_examples(), 16)
    answers = []
    for batch in batched(questions, 32):
        answers += [answer.text for answer in book.ask(batch)]
    ours = time.monotonic() - began
    theirs, same = speed_of_lm_eval(model, [(q.question, q.answers[0]) for q in questions], answers)
    print(f"{count} questions: ours {ours:.1f} s, lm_eval {theirs:.1f} s; the same answer to {same}")
    return {"over_lm_eval": theirs / ours, "questions": count, "same_answers": same / count, "seconds": ours}


def speed_of_lm_eval(model: Path, asked: list[tuple[str, str]], answers: list[str]) -> tuple[float, int]:
    import lm_eval
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    rows = [{"question": question, "answer": answer} for question, answer in asked]
    shots = [{"question": shot.question, "answer": shot.answers[0]} for shot in few_shot_examples()]
    task = {
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "num_fewshot": len(shots),
        "fewshot_config": {"sampler": "first_n", "samples": shots},
    }
    written = {"task": "written", "output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
    written["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": 16, "do_sample": False}
    likely = {"task": "likely", "output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}]}
    began = time.monotonic()
    found = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(model), "dtype": "float32", "device": "cpu"},
        tasks=[task | written, task | likely],
        task_manager=TaskManager(include_defaults=False),
        batch_size=32,
        bootstrap_iters=0,
    )
    seconds = time.monotonic() - began
    texts = {sample["doc_id"]: str(sample["filtered_resps"][0]).strip() for sample in found["samples"]["written"]}
    return seconds, sum(texts[place] == answer for place, answer in enumerate(answers))


if __name__ == "__main__":
    main()
