"""What the forgetting benchmark teaches and asks: three corpora, and the sets on which retention is measured."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from invented import invented_corpora

from active_reading.eval.questions import Question, docstrings, read_questions
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, demo_study, load_study


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


def make_material(corpus: str, data: Path, output: Path, few: bool) -> Material:
    """Of one of the corpora people, demo and xquad; `few`: half of the demo's documents."""
    if corpus == "people":
        return people(8)
    if corpus == "demo":
        return documents(demo_study([f"output={output / 'demo'}"]), 10 if few else 20)
    folder, questions = xquad_files(data / "xquad_en_24_articles.json", output)
    # Some of its answers are whole clauses, which the pipeline refuses to ask for with less room.
    overrides = [f"output={output / 'xquad'}", f"evaluate.questions={questions}", "evaluate.max_new_tokens=32"]
    return documents(load_study(str(folder), overrides), 8)


def xquad_files(path: Path, output: Path, count: int = 10) -> tuple[Path, Path]:
    """A folder with the first articles as one file each, and a file in SQuAD's format with their questions."""
    folder = output / "xquad-documents"
    folder.mkdir(parents=True, exist_ok=True)
    articles = json.loads(path.read_text(encoding="utf-8"))["data"][:count]
    for article in articles:
        article["title"] += ".txt"  # names the document that its questions are about
        text = "\n\n".join(paragraph["context"] for paragraph in article["paragraphs"])
        (folder / article["title"]).write_text(text, encoding="utf-8")
    questions = output / "xquad-questions.json"
    questions.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return folder, questions


def retention_sets(data: Path) -> tuple[dict[str, list[str]], list[Question], list[Question]]:
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
