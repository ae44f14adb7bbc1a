"""Made questions: chunks -> closed-book questions that the generator writes, checked against their source.

The generator is asked about some chunks of each document, evenly spread, in words that no template of the data set
has. A question is kept when its answer stands in the chunk word for word and not in the question, and when the
generator, asked the question beside the chunk, gives the same answer. Decontamination then takes the training texts
that hold it.
NOT covered: languages written without spaces between words; whether whoever does not see the chunk knows what is
meant; two questions of two chunks on one fact.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import polars as pl

from active_reading.eval.questions import Question, evenly, normalize_question
from active_reading.eval.scores import f1, normalize_answer
from active_reading.prompts.characters import writable
from active_reading.prompts.render import EVALUATION, JUDGING

WRITING = EVALUATION / "question.j2"
READING = JUDGING / "question.j2"
MOST_OF_A_CHUNK = 4  # questions, by the template's schema
WRITING_TOKENS = 384  # so many questions and answers, each as long as the schema lets it be
KIND = "made"
LEAST_F1 = 0.5  # of the written answer and the one that is read in the chunk
ABOUT_THE_TEXT = re.compile(r"\b(the|this) (text|passage|paragraph|excerpt|document|article)\b", re.IGNORECASE)
# One answer per row, null where there is none, to a template asked of the rows' columns.
Ask = Callable[[pl.DataFrame, str], pl.Series]
Row = dict[str, Any]
_JSON = json.JSONDecoder()
WHENCE = ("document_id", "chunk_id")


class Made(NamedTuple):
    """What became of the generator's questions."""

    kept: list[Row]  # as lines of a file of questions: `question`, `answers`, `kind`, `document_id`, `chunk_id`
    dropped: list[Row]  # `question`, `answer`, `document_id`, `chunk_id`, `reason`, and the answer that was `read`
    figures: dict[str, Any]  # counts from the chunks asked about to the questions kept; why the others fell


def make_questions(
    chunks: pl.DataFrame,
    most: int,
    write: Ask,
    read: Ask,
    fits: Callable[[str], bool],
    own: Collection[Question] = (),
) -> Made:
    """At most `most` questions a document, none of which is one of the user's `own`.

    `chunks` has `chunk_id`, `document_id`, `title` and `text`, in the order of the documents. `write` answers what
    asks for questions and `read` what asks them; `fits` says whether an answer is short enough to be scored.
    Raises what they raise.
    """
    chosen = _some_of_each(chunks, most)
    rows = _parsed(chosen, write(chosen.select("text", "title"), str(WRITING)))
    documents: dict[str, str] = defaultdict(str)
    for document, text in chunks.select("document_id", "text").iter_rows():
        documents[document] += _words(text)
    for row in rows:
        row["reason"] = _unusable(row, documents[row["document_id"]], fits)
    asked = [row for row in rows if row["reason"] is None]
    beside = pl.DataFrame(asked, dict.fromkeys(("text", "question"), pl.String))
    for row, answer in zip(asked, read(beside, str(READING)), strict=True):
        row["read"] = answer
        row["reason"] = None if answers_agree(row["answer"], answer or "") else "disagreed"
    agreed = [row for row in asked if row["reason"] is None]
    _drop_repeats(agreed, most, own)
    kept = [row for row in agreed if row["reason"] is None]
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    figures = {
        "chunks": chosen.height,
        "unanswered": chosen.height - len({row["chunk_id"] for row in rows}),
        "asked": len(rows),
        "in_chunk": len(rows) - reasons["not_in_chunk"],
        "agreed": len(agreed),
        "kept": len(kept),
        "dropped": dict(reasons.most_common()),
    }
    fallen = ("question", "answer", *WHENCE, "reason", "read")
    dropped = [{name: row.get(name) for name in fallen} for row in rows if row["reason"]]
    return Made([_line(row) for row in kept], dropped, figures)


def describe_questions(figures: dict[str, Any]) -> str:
    """One line, such as: 9 on 3 chunks, 7 with an answer that is in the chunk, 6 agreed on, 5 kept (...)."""
    reasons = {**figures["dropped"], **({"unanswered": figures["unanswered"]} if figures["unanswered"] else {})}
    why = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.items())})" if reasons else ""
    return (
        f"{figures['asked']} on {figures['chunks']} chunks, {figures['in_chunk']} with an answer that is in the "
        f"chunk, {figures['agreed']} agreed on, {figures['kept']} kept{why}"
    )


def parse_questions(answer: str) -> list[tuple[str, str]]:
    """(question, answer) pairs of an answer in JSON, in one line each; of one that was cut, the whole pairs."""
    pairs = []
    for brace in re.finditer("{", answer):
        try:
            item, _ = _JSON.raw_decode(answer, brace.start())
        except (ValueError, RecursionError):
            continue
        question, reply = item.get("question"), item.get("answer")
        if isinstance(question, str) and isinstance(reply, str | int | float) and question.strip():
            pairs.append((writable(" ".join(question.split())), writable(" ".join(str(reply).split()))))
    return pairs


def answers_agree(written: str, read: str) -> bool:
    """Whether two answers have most words in common (F1), or the read one is a sentence that holds the written one.

    Where the written one has numbers, the read one has the same and no others.
    """
    numbers = [{word for word in normalize_answer(text).split() if word.isdigit()} for text in (written, read)]
    if numbers[0] and numbers[0] != numbers[1]:
        return False
    return f1(read, [written]) >= LEAST_F1 or _words(written) in _words(read)


def _some_of_each(chunks: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most `most` chunks of each document, evenly spread, in order."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, document in enumerate(chunks["document_id"]):
        places[document].append(place)
    return chunks[sorted(own[at] for own in places.values() for at in evenly(len(own), most))]


def _parsed(chosen: pl.DataFrame, written: Iterable[str | None]) -> list[Row]:
    """A row for each question: its `place` in the answer, and the `text` of its chunk."""
    return [
        {
            "question": question,
            "answer": answer,
            "place": place,
            **{name: chunk[name] for name in (*WHENCE, "text")},
        }
        for chunk, reply in zip(chosen.iter_rows(named=True), written, strict=True)
        for place, (question, answer) in enumerate(parse_questions(reply or ""))
    ]


def _line(row: Row) -> Row:
    whence = {name: row[name] for name in WHENCE}
    return {"question": row["question"], "answers": [row["answer"]], "kind": KIND, **whence}


def _unusable(row: Row, document: str, fits: Callable[[str], bool]) -> str | None:
    """Why a question falls before anybody is asked it; `document` is the text of all its chunks, as `_words`."""
    question, answer = _words(row["question"]), _words(row["answer"])
    if not answer.strip() or answer not in _words(row["text"]):
        return "not_in_chunk"
    if answer in question:
        return "given_away"
    if ABOUT_THE_TEXT.search(row["question"]):
        return "about_the_text"
    if question in document:  # decontamination would take the chunk itself
        return "quoted"
    return None if fits(row["answer"]) else "long_answer"


def _drop_repeats(rows: list[Row], most: int, own: Collection[Question]) -> None:
    """Give a reason to questions with several answers, to repeats, and to what is over the limit of a document.

    The first question of every chunk goes before all second ones.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        answers[normalize_question(row["question"])].add(normalize_answer(row["answer"]))
    asked = {normalize_question(question.question) for question in own}
    told: set[tuple[str, str]] = set()
    of_document: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: row["place"]):
        question, fact = normalize_question(row["question"]), (row["chunk_id"], normalize_answer(row["answer"]))
        if len(answers[question]) > 1:
            row["reason"] = "ambiguous"
        elif question in asked or fact in told:
            row["reason"] = "duplicate"
        elif of_document[row["document_id"]] == most:
            row["reason"] = "over_limit"
        else:
            asked.add(question)
            told.add(fact)
            of_document[row["document_id"]] += 1


def _words(text: str) -> str:
    """Normalized words between spaces, so that what is found in it are whole words."""
    return f" {normalize_answer(text)} "
