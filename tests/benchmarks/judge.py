"""The judge: which planted false facts does it find, and how many true texts and right answers does it drop?

    python tests/benchmarks/judge.py [--quick] [--model FOLDER_OR_ID] [--squad xquad.en.json]

Statements: the paraphrases written by hand (`data/*.jsonl`), which are true, and each of them with one false fact.
Answers: the demo's gold questions and, with `--squad`, those of a file in SQuAD's format (XQuAD:
github.com/google-deepmind/xquad, xquad.en.json), each with its gold answer (which should be kept) and with the
answer to another question on the same corpus (which should fall). The engine is vLLM, as in a study.
On a GPU: python tests/benchmarks/judge.py --model Qwen/Qwen3-1.7B
The last line of standard output is one JSON object.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

import polars as pl
from faithfulness import DEMO, SETS, paraphrases

from active_reading.augment.generate import make_engine
from active_reading.augment.judge import JudgeSettings, judge_texts, make_ask
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL

ANSWERS = {"statement": "text", "right": "questions", "wrong": "questions"}
Row = tuple[str, str, str]  # id, text, source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 60 questions of a corpus")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--squad", type=Path, help="a file in SQuAD's format, such as xquad.en.json")
    arguments = parser.parse_args()
    model = resolve_model(arguments.model)
    asked = {"demo": demo_questions()} | ({"squad": squad_questions(arguments.squad)} if arguments.squad else {})
    most = 60 if arguments.quick else 400
    asked = {corpus: random.Random(0).sample(rows, min(most, len(rows))) for corpus, rows in asked.items()}
    texts = [(f"{number:04}", *statement) for number, statement in enumerate(statements())]
    rows: list[tuple[str, str, str, str]] = [(f"s{i}", "statement", text, source) for i, text, source in texts]
    for corpus, questions in asked.items():
        for number, (question, answer, source) in enumerate(questions):
            other = questions[(number + 1) % len(questions)][1]
            for template, given in (("right", answer), ("wrong", other)):
                text = f"Question: {question}\nAnswer: {given}"
                rows.append((f"{corpus} {template} {number}", template, text, source))
    sources = {source: f"c{number}" for number, source in enumerate(dict.fromkeys(row[3] for row in rows))}
    chunks = pl.DataFrame({"chunk_id": list(sources.values()), "text": list(sources)})
    kept = pl.DataFrame(
        [(*row[:3], sources[row[3]]) for row in rows], ["id", "template", "text", "chunk_id"], orient="row"
    )
    settings = GenerateSettings(max_num_seqs=32, max_model_len=2048)
    with tempfile.TemporaryDirectory() as folder:
        ask = make_ask(
            settings,
            ModelIdentity(model.name, model.revision),
            Ledger(Path(folder)),
            lambda: make_engine(settings, model.folder),
            lambda done, total, unit, note: print(f"{done}/{total} {unit} {note}") if done % 100 == 0 else None,
        )
        judged = judge_texts(kept, ANSWERS, chunks, JudgeSettings(statements=True, answers=True), ask)
    figures = judged.figures["statements"]
    result = {
        "model": model.name,
        "statements": figures["texts"],
        **{name: figures[name] for name in ("planted", "auc", "recall", "precision", "false_rejects")},
        **{f"recall_{kind}": share for kind, share in figures["recall_by_kind"].items()},
    }
    for corpus in asked:
        for template in ("right", "wrong"):
            mine = judged.rows.filter(pl.col("id").str.starts_with(f"{corpus} {template}"))
            result[f"{template}_answers_dropped_{corpus}"] = mine["reason"].count() / mine.height
            result[f"questions_{corpus}"] = mine.height
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in result.items()}))


def statements() -> list[tuple[str, str]]:
    """(true statement, its source)."""
    return [(row["text"], source.text) for name in SETS for row, source in paraphrases(name)]


def demo_questions() -> list[tuple[str, str, str]]:
    """(question, gold answer, document)."""
    documents = {path.name: path.read_text(encoding="utf-8") for path in DEMO.rglob("*.*")}
    with (DEMO.parent / "questions.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["question"], row["answers"][0], documents[Path(row["document"]).name]) for row in rows]


def squad_questions(path: Path) -> list[tuple[str, str, str]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        (question["question"], question["answers"][0]["text"], part["context"])
        for article in articles
        for part in article["paragraphs"]
        for question in part["qas"]
        if question["answers"]
    ]


if __name__ == "__main__":
    main()
