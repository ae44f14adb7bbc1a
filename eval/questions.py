"""What a model is evaluated on: questions with short answers, and texts.

Questions come from JSON lines or from a file in SQuAD's format. A JSON line has `question` and `answers`, and
optionally `document` (or `document_id`) and `kind`. A question that is asked twice of one document becomes one,
which accepts the answers of both. No torch here.
NOT covered: whether an answer is right.
"""

import importlib
import inspect
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from active_reading.eval.scores import normalize_answer

DATA = Path(__file__).parent / "data"
LINE = '{"question": "...", "answers": ["..."]}'
# What reading JSON and looking into it raises; RecursionError where it is nested too deep.
BROKEN = (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError)
NO_KIND = "of no kind"  # questions without a kind, where others have one
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
    kind: str | None = None  # scores are split by it: seen, held_out, reversed, multi_hop, neighbour, ...
    context: str = ""  # a passage that the model reads before the question
    place: str = field(default="", compare=False)  # where it was read: the file, and the line or id in it


def read_questions(path: Path) -> list[Question]:
    """Read a file of questions: SQuAD's format when its name ends in `.json`, JSON lines otherwise.

    Raises ValueError, with the file, the line (or the question's id) and the cure, for a missing or empty file,
    broken JSON, a missing field, an answer that no score can tell from none, and one question with two
    documents or kinds.
    """
    if not path.is_file():
        raise ValueError(
            f"questions file {path} {'is a folder: name a file' if path.is_dir() else 'does not exist'}"
        )
    text = _read_text(path, "questions file")
    questions = _squad_questions(path, text) if path.suffix.lower() == ".json" else _line_questions(path, text)
    if not questions:
        why = "has no question with an answer" if text.strip() else "is empty"
        raise ValueError(f"questions file {path} {why}: give it lines like {LINE}, or leave it out")
    return _merged(questions)


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} {path} is not UTF-8 text (byte {error.start}): unpack it, or save it as UTF-8"
        ) from error


def check_lengths(
    questions: list[Question], num_tokens: Callable[[str], int], max_new_tokens: int, room: int | None = None
) -> None:
    """Raise ValueError when a question has no accepted answer that fits into `max_new_tokens` tokens.

    Such a question could never be answered right; and one of more than `room` tokens could not be read (None: any
    can). `num_tokens` counts a text's tokens.
    """
    for question in questions:
        if room is not None and (count := num_tokens(question.question)) > room:
            raise ValueError(
                f"{question.place}: the question has {count} tokens, and beside worked examples and answer the "
                f"model's context has room for {max(room, 0)}: shorten it"
            )
    needed = [min(num_tokens(f" {answer}") for answer in question.answers) for question in questions]
    long = [question for question, count in zip(questions, needed, strict=True) if count > max_new_tokens]
    if long:
        others = f", nor for {len(long) - 1} more questions" if len(long) > 1 else ""
        raise ValueError(
            f"{long[0].place}: no accepted answer fits into evaluate.max_new_tokens={max_new_tokens} tokens{others}"
            f": add shorter answers, or set evaluate.max_new_tokens={max(needed)}"
        )


def _line_questions(path: Path, text: str) -> list[Question]:
    questions = []
    # Not splitlines: JSON may hold the line ends of Unicode as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["answers"], list):
                raise TypeError("'answers' is not a list")
            question, answers = row["question"], row["answers"]
            document = row.get("document") or row.get("document_id")
        except BROKEN as error:
            raise ValueError(f"{path}:{number}: needs {LINE} ({error!r})") from error
        questions.append(_checked(f"{path}:{number}", question, answers, document, row.get("kind")))
    return questions


def _squad_questions(path: Path, text: str) -> list[Question]:
    """Questions of a file in the format of SQuAD 1.1 or 2.0; a question marked as impossible is left out.

    (Rajpurkar et al. 2018, arXiv 1806.03822.) An article's title is its questions' document.
    """
    questions: list[Question] = []
    place = str(path)
    try:
        for article in json.loads(text)["data"]:
            for asked in (asked for paragraph in article["paragraphs"] for asked in paragraph["qas"]):
                place = f"{path}: question {asked.get('id', len(questions) + 1)}"
                if asked.get("is_impossible"):
                    continue
                # Annotators often agree: each answer once.
                answers = list(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                questions.append(_checked(place, asked["question"], answers, article.get("title"), None))
    except BROKEN as error:
        raise ValueError(
            f"{place}: a .json file needs SQuAD's format, data > paragraphs > qas > question, answers > text "
            f"({error!r}); name a file of JSON lines .jsonl"
        ) from error
    return questions


def _checked(place: str, question: Any, answers: list[Any], document: Any, kind: Any) -> Question:
    """The question, or ValueError when a field cannot be used."""
    if question is None or not str(question).strip():
        raise ValueError(f"{place}: 'question' is empty")
    if not isinstance(question, str):
        raise ValueError(f"{place}: 'question' is {question!r}: give a text")
    if not answers or not all(map(_is_answer, answers)):
        raise ValueError(f"{place}: 'answers' must hold at least one non-empty answer, and only texts and numbers")
    texts = tuple(str(answer) for answer in answers)
    try:
        "".join((str(question), *texts)).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: holds half a surrogate pair, which is no character ({error.reason})") from error
    for text in texts:
        if not normalize_answer(text):
            raise ValueError(
                f"{place}: nothing of the answer {text!r} is left without punctuation and articles, so that "
                "an empty one would count as right: word it otherwise"
            )
    for name, value in (("document", document), ("kind", kind)):
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{place}: '{name}' is {value!r}: give a text, or leave it out")
    return Question(str(question), texts, document, kind, place=place)


def _is_answer(answer: Any) -> bool:
    """A text or a number; not what JSON has besides: true, a list, and what Python reads as one: NaN."""
    if isinstance(answer, float):
        return math.isfinite(answer)
    return bool(answer.strip()) if isinstance(answer, str) else type(answer) is int


def _merged(questions: list[Question]) -> list[Question]:
    """Each question once, in order, with the answers of all its rows.

    Raises ValueError when rows of one question differ in document or kind: asked without the document, nothing
    tells them apart.
    """
    merged: dict[str, Question] = {}
    for asked in questions:
        key = normalize_question(asked.question)
        first = merged.setdefault(key, asked)
        if (first.document, first.kind) != (asked.document, asked.kind):
            raise ValueError(
                f"{asked.place}: the question {asked.question!r} is asked at {first.place} too, of another "
                "document or kind: leave one out, or name in it what it asks about"
            )
        if first is not asked:
            merged[key] = replace(first, answers=tuple(dict.fromkeys(first.answers + asked.answers)))
    return list(merged.values())


def normalize_question(question: str) -> str:
    """The question without differences of case, white space, compatible characters and its closing mark.

    Not `normalize_answer`: without punctuation, "2 + 2?" and "2 * 2?" would be one question.
    """
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split()).rstrip(" .?!")


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
    """Technical prose that is on every machine: documentation of Python's standard library.

    Raises ValueError where Python was told to leave it out.
    """
    if sys.flags.optimize > 1:
        raise ValueError("a retention set is made of docstrings: run Python without -OO and PYTHONOPTIMIZE=2")
    found = set()
    for name in DOCUMENTED_MODULES:
        for member in vars(importlib.import_module(name)).values():
            text = inspect.getdoc(member) if callable(member) else None
            if text and 300 <= len(text) <= 1000:
                found.add(text)
    return sorted(found)[:24]


def evenly(count: int, wanted: int) -> list[int]:
    """Places of `wanted` of `count` items, evenly spread; of all when there are no more."""
    return [place * count // wanted for place in range(wanted)] if count > wanted else list(range(count))


def by_kind(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by their `kind`, in order of appearance; empty where all are of one kind."""
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_kind.setdefault(row["kind"] or NO_KIND, []).append(row)
    return of_kind if len(of_kind) > 1 else {}


def evaluation_texts(questions: str | None, task_data: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """Every text that an evaluation may show a model, by set: whole sets, whatever limits are set.

    `questions` is the file of gold questions, when there is one, and `task_data` the local file of each standard
    task that has one. Answers are left out: they may be learned.
    NOT covered: tasks whose items come from the hub.
    """
    gold = {"gold": read_questions(Path(questions))} if questions else {}
    asked = {**gold, "general_questions": general_questions(), "few_shot": few_shot_examples()}
    return {
        **{name: [item.question for item in items] for name, items in asked.items()},
        "general_text": general_text(),
        "docstrings": docstrings(),
        **{name: _task_texts(Path(path)) for name, path in (task_data or {}).items()},
    }


def _task_texts(path: Path) -> list[str]:
    """The questions of JSON lines, or the lines of a text."""
    lines = [line for line in _read_text(path, "task's file").split("\n") if line.strip()]
    if not lines:
        raise ValueError(f"task's file {path} is empty: name another, or leave the task out")
    if path.suffix != ".jsonl":
        return lines
    try:
        return [str(json.loads(line)["question"]) for line in lines]
    except BROKEN as error:
        raise ValueError(f"{path}: every line of a task's file needs a 'question' ({error!r})") from None
