"""What a model is evaluated on: questions with short answers, and texts.

Questions come from JSON lines: `question`, `answers`, optional `document`. No torch here.
"""

import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
DOCUMENTED_MODULES = (
    "collections",
    "decimal",
    "difflib",
    "functools",
    "pathlib",
    "random",
    "statistics",
    "subprocess",
)


@dataclass(frozen=True)
class Question:
    """One closed-book question; the first answer is the one whose likelihood is measured."""

    question: str
    answers: tuple[str, ...]
    document: str | None = None


def read_questions(path: Path) -> list[Question]:
    """Read a JSONL file of questions.

    Raises ValueError naming the file and line of a missing file, broken JSON or missing field.
    """
    if not path.is_file():
        raise ValueError(f"questions file {path} does not exist")
    try:
        # Not splitlines: JSON may hold the line ends of Unicode as they are.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"questions file {path} is not UTF-8 text (byte {error.start})") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["answers"], list):
                raise TypeError("'answers' is not a list")
            answers = tuple(str(answer) for answer in row["answers"])
            questions.append(Question(str(row["question"]), answers, row.get("document")))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'{path}:{number}: needs {{"question": "...", "answers": ["..."]}} ({error!r})'
            ) from error
        if not questions[-1].question.strip() or row["question"] is None:
            raise ValueError(f"{path}:{number}: 'question' is empty")
        if not answers or not all(answer.strip() for answer in answers):
            raise ValueError(f"{path}:{number}: 'answers' must hold at least one non-empty answer")
    if not questions:
        raise ValueError(f"questions file {path} is empty")
    return questions


def general_questions() -> list[Question]:
    """Well-known questions that ship with the package: what a model should still know."""
    return read_questions(DATA / "general_questions.jsonl")


def few_shot_examples() -> list[Question]:
    """The worked examples in front of every closed-book question."""
    return read_questions(DATA / "few_shot.jsonl")


def general_text() -> list[str]:
    """Paragraphs of general prose that ship with the package."""
    lines = (DATA / "general_text.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def docstrings() -> list[str]:
    """Technical prose that is on every machine: documentation of Python's standard library."""
    found = set()
    for name in DOCUMENTED_MODULES:
        for member in vars(importlib.import_module(name)).values():
            text = inspect.getdoc(member) if callable(member) else None
            if text and 300 <= len(text) <= 1000:
                found.add(text)
    return sorted(found)[:24]


def evaluation_texts(questions: str | None) -> dict[str, list[str]]:
    """Every text that an evaluation may show a model, by set: whole sets, whatever limits are set.

    `questions` is the file of gold questions, when there is one. Answers are left out: they may be learned.
    """
    gold = {"gold": read_questions(Path(questions))} if questions else {}
    asked = {**gold, "general_questions": general_questions(), "few_shot": few_shot_examples()}
    return {
        **{name: [item.question for item in items] for name, items in asked.items()},
        "general_text": general_text(),
        "docstrings": docstrings(),
    }
