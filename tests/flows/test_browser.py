"""Training texts under a question: those that hold its answer, of its document or of any."""

from typing import Any

import polars as pl
import pytest

from active_reading.flows import browser
from active_reading.flows.browser import LONGEST_TEXT, browse

DOCUMENT = "Orsella was born in 1921. She kept a heron, Admiral."
COLUMNS = ("id", "template", "text", "source", "title", "document_id", "start", "end", "document_text", "strategy")


def text(name: str, words: str, source: str = "people/orsella.md", template: str = "paraphrase") -> tuple[Any, ...]:
    start, end = (0, 25) if "1921" in words else (26, len(DOCUMENT))
    return name, template, words, source, source.title(), f"id of {source}", start, end, DOCUMENT, None


TEXTS = [
    text("a1", "Someone left in 1921."),
    text("a2", "Orsella was born in 1921, by the sea."),
    text("a3", "Her heron was called Admiral."),
    text("a4", "In 19210 nothing happened."),
    text("a5", "Who was born? Karvel, in 1921.", "karvel.md"),
    text("a6", "Bees are born in 1921, too.", "bees.md"),
    text("c1", "Orsella was born in 1921.", template="chunk"),
]


def question(words: str, answers: list[str], document: str | None) -> dict[str, Any]:
    given = {"answer": "x", "f1": 0.123456, "exact_match": 1.0}
    return {"question": words, "answers": answers, "document": document, "kind": None, **given}


def found(row: dict[str, Any], texts: list[tuple[Any, ...]] = TEXTS) -> list[str]:
    """The ids of the texts under one question."""
    shown = browse({"base": [row]}, pl.DataFrame(texts, schema=COLUMNS, orient="row"))
    return [shown["texts"][place]["id"] for place in shown["items"][0]["texts"]]


@pytest.mark.parametrize(
    "document", ["people/orsella.md", "orsella.md", "People/Orsella.Md", "id of people/orsella.md"]
)
def test_the_texts_of_the_question_s_document_by_any_of_its_names(document: str) -> None:
    assert found(question("When was Orsella born?", ["1921"], document)) == ["a2", "a1", "c1"]


@pytest.mark.parametrize("document", [None, "", "unknown.md"])
def test_a_question_that_names_no_document_has_the_best_three_of_all(document: str | None) -> None:
    assert found(question("Who was born when Orsella was born?", ["1921"], document)) == ["a2", "a5", "a6"]


def test_a_document_without_a_title_is_not_that_of_a_question_without_a_document() -> None:
    texts = [(*TEXTS[2][:4], None, *TEXTS[2][5:]), *TEXTS[4:5]]
    assert found(question("When?", ["1921"], None), texts) == ["a5"]


def test_any_accepted_answer_counts_and_each_text_once() -> None:
    row = question("What was the heron called?", ["the Admiral!", "heron", "Admiral"], "orsella.md")
    assert found(row) == ["a3"]


@pytest.mark.parametrize("answers", [["1922"], ["the"], ["..."], ["Admiral 1921"]])
def test_an_answer_that_no_text_holds_leads_nowhere(answers: list[str]) -> None:
    assert found(question("What?", answers, None)) == []


def test_a_text_leads_to_its_span() -> None:
    row = question("What was the heron called?", ["Admiral"], None)
    shown = browse({"base": [row]}, pl.DataFrame(TEXTS, schema=COLUMNS, orient="row"))
    text = shown["texts"][0]
    assert shown["passages"][text["passage"]] == DOCUMENT[text["start"] : text["end"]]
    assert shown["passages"] == ["She kept a heron, Admiral."]
    assert text["source"] == "people/orsella.md"


def size(shown: dict[str, Any]) -> int:
    return sum(len(words.encode()) for words in [*(each["text"] for each in shown["texts"]), *shown["passages"]])


def test_every_question_s_best_text_has_room_before_any_one_s_second(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [question(words, [answer], None) for words, answer in (("Orsella?", "1921"), ("When?", "Admiral"))]
    texts = pl.DataFrame(TEXTS, schema=COLUMNS, orient="row")
    whole = browse({"base": rows}, texts)
    assert [item["texts"] for item in whole["items"]] == [[0, 2, 3], [1]]
    monkeypatch.setattr(browser, "MOST_BYTES", size(whole) - 1)
    cut = browse({"base": rows}, texts)
    assert [item["texts"] for item in cut["items"]] == [[0, 2], [1]]
    assert size(cut) < size(whole)


def test_a_question_whose_texts_have_no_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [question("When?", ["1921"], None), question("When?", ["never"], None)]
    monkeypatch.setattr(browser, "MOST_BYTES", 10)
    shown = browse({"base": rows}, pl.DataFrame(TEXTS, schema=COLUMNS, orient="row"))
    assert [item["texts"] for item in shown["items"]] == [None, []]
    assert shown["texts"] == []


def test_every_model_s_answer_is_given_and_the_base_is_named() -> None:
    row = question("When?", ["1921"], None)
    samples = {"naive-full": [row | {"answer": "y", "exact_match": 0.0}], "base": [row]}
    shown = browse(samples, pl.DataFrame(TEXTS, schema=COLUMNS, orient="row"))
    assert shown["models"][shown["base"]] == "base"
    assert shown["items"][0]["given"] == [["y", 0.123, 0], ["x", 0.123, 1]]


def test_long_texts_are_cut_and_questions_are_at_most_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "MOST_SAMPLES", 2)
    row = question("When?", ["1921"], None)
    texts = pl.DataFrame([text("a1", "1921 " + "x" * 5000)], schema=COLUMNS, orient="row")
    shown = browse({"base": [row] * 3}, texts)
    assert len(shown["items"]) == 2
    assert len(shown["texts"][0]["text"]) == LONGEST_TEXT


def test_no_texts_and_no_questions_are_no_failure() -> None:
    nothing = pl.DataFrame(TEXTS, schema=COLUMNS, orient="row").clear()
    assert browse({"base": []}, nothing)["items"] == []
    assert found(question("When?", ["1921"], None), []) == []
