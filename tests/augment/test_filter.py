"""Filter: realistic texts, kept or dropped for the reason they deserve."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.filter import Chunk, FilterSettings, check, filter_generations, parse_pairs
from active_reading.augment.ledger import SCHEMA

SOURCE = (
    "Orsella Vantrill was a botanist from Karvelmoor. "
    "In 1921 she named 14 mosses on the slopes of Mount Ossegrund. "
    "The Vantrill herbarium holds 4,200 sheets and lies beside the old library. It opens on two days a week."
)
CHUNK = Chunk(SOURCE, "The Threnwick herbarium")
FAITHFUL = (
    "In 1921 fourteen mosses on Mount Ossegrund got their names from the botanist Orsella Vantrill of Karvelmoor."
)
REPEATED = "The herbarium lies beside the library. " * 6  # 6 different ones of 33 4-word runs


def generation(text: str, **changes: Any) -> dict[str, Any]:
    values = {"text": text, "finish_reason": "stop", "error": None}
    return values | changes


def verdict(text: str, answer: str = "text", chunk: Chunk = CHUNK, **changes: Any) -> tuple[str | None, str | None]:
    ((_, reason, detail),) = check(generation(text, **changes), answer, chunk, FilterSettings())
    return reason, detail


@pytest.mark.parametrize(
    "text",
    [
        FAITHFUL,
        "The herbarium of Orsella Vantrill, a botanist, has 4200 sheets: four thousand two hundred, to be exact.",
        "Although she came from Karvelmoor, the botanist is known for mosses. However, these were fourteen only.",
        "1. Botanist: Orsella Vantrill\n2. She came from Karvelmoor\n3. In 1921 she named 14\n4. Mosses are meant",
        "Threnwick has a herbarium beside the old library, and Vantrill's sheets lie in it.",
    ],
)
def test_a_faithful_text_is_kept(text):
    assert verdict(text) == (None, None)


@pytest.mark.parametrize(
    ("text", "changes", "reason", "detail"),
    [
        ("", {"error": "prompt of 4000 tokens leaves no room"}, "failed", "prompt of 4000 tokens leaves no room"),
        ("", {"error": "no room", "finish_reason": "too_long"}, "too_long", "no room"),
        (FAITHFUL, {"finish_reason": "length"}, "truncated", "finish_reason=length"),
        ("As an AI, I have no view on the botanist Orsella Vantrill of Karvelmoor.", {}, "refusal", "As an AI"),
        ("I'm sorry, but that text about the mosses is too short to rewrite.", {}, "refusal", "I'm sorry"),
        ("I\u2019m sorry, but that text about the mosses is too short.", {}, "refusal", "I\u2019m sorry"),
        (
            "I can\u2019t help with the mosses of Orsella Vantrill of Karvelmoor.",
            {},
            "refusal",
            "I can\u2019t help",
        ),
        ("Sure, I would be happy to help with the mosses of Mount Ossegrund.", {}, "refusal", "happy to help"),
        ("", {}, "too_short", "0 words"),
        ("Orsella Vantrill named mosses.", {}, "too_short", "4 words"),
        ("In 1922 the botanist Orsella Vantrill named 14 mosses.", {}, "ungrounded", "1922"),
        ("The botanist Orsella Vantrill named forty mosses in 1921.", {}, "ungrounded", "40"),
        ("The botanist Orsella Miller named 14 mosses in 1921.", {}, "ungrounded", "Miller"),
        ("Bertrand was a botanist who named 14 mosses in 1921.", {}, "ungrounded", "Bertrand"),
        (SOURCE, {}, "copy", "1.00 of the 8-word runs"),
        (REPEATED, {}, "repetition", "0.82 of the 4-word runs"),
    ],
)
def test_an_unusable_text_falls_with_its_reason_and_detail(text, changes, reason, detail):
    assert verdict(text, **changes) == (reason, detail)


def test_the_reasons_come_in_their_documented_order():
    """A text with several faults falls for the first one; repaired one by one, it meets them all."""
    text = "I'm sorry, 77."
    assert verdict(text, error="broken", finish_reason="length")[0] == "failed"
    assert verdict(text, finish_reason="length")[0] == "truncated"
    assert verdict(text)[0] == "refusal"
    assert verdict("Not sorry, 77.")[0] == "too_short"
    assert verdict(f"Not sorry, 77. {SOURCE} {SOURCE} {SOURCE}")[0] == "ungrounded"
    assert verdict(f"{SOURCE} {SOURCE} {SOURCE}")[0] == "copy"
    assert verdict(REPEATED)[0] == "repetition"


def test_words_of_a_refusal_that_the_source_itself_uses_are_no_refusal():
    chunk = Chunk("Karvel is a language model of 1999. It was happy to help the botanists of Threnwick.", "")
    text = "In 1999 the language model named Karvel was built, and botanists in Threnwick used it."
    assert verdict(text, chunk=chunk) == (None, None)
    assert verdict("As an AI language model, Karvel was built in 1999, and botanists used it.", chunk=chunk) == (
        "refusal",
        "As an AI",
    )
    assert verdict(text) == ("refusal", "language model")


def test_the_shares_of_copied_and_repeated_runs_are_what_the_settings_allow():
    """Of the 12 words of `text`, runs 1 to 3 of the five 8-word runs are copied: 0.60."""
    chunk = Chunk("the old library holds mosses from the northern slopes and dry ferns", "")
    text = "the old library holds mosses from the northern slopes and green leaves"
    row = generation(text)
    for max_copied, reason in ((0.59, "copy"), (0.61, None)):
        ((_, found, _),) = check(row, "text", chunk, FilterSettings(max_copied=max_copied))
        assert found == reason
    # 17 words: of the 14 4-word runs, those that begin at words 9 to 13 were seen before.
    text = "moss grows on the old stone wall by moss grows on the old stone wall by night"
    row = generation(text)
    for max_repeated, reason in ((5 / 14 - 0.01, "repetition"), (5 / 14 + 0.01, None)):
        ((_, found, _),) = check(row, "text", chunk, FilterSettings(max_repeated=max_repeated))
        assert found == reason


PAIRS = [("Who named the mosses?", "Orsella Vantrill"), ("In which year?", "1921")]


@pytest.mark.parametrize(
    "text",
    [
        "Q: Who named the mosses?\nA: Orsella Vantrill\nQ: In which year?\nA: 1921",
        "Q: Who named the mosses?\n\nA: Orsella Vantrill\n\n\nQ: In which year?\n \nA: 1921\n\n",
        "Q1: Who named the mosses?\nA1: Orsella Vantrill\nQ2: In which year?\nA2: 1921",
        "Q1. Who named the mosses?\nA1. Orsella Vantrill\nQ2. In which year?\nA2. 1921",
        "1. Q: Who named the mosses?\n   A: Orsella Vantrill\n2. Q: In which year?\n   A: 1921",
        "1. Who named the mosses?\nA: Orsella Vantrill\n2) In which year?\nAnswer: 1921",
        "1. **Who named the mosses?**\n   - Answer: Orsella Vantrill\n2. **In which year?**\n   - Answer: 1921",
        "**Question 1:** Who named the mosses?\n**Answer:** Orsella Vantrill\n\n"
        "**Question 2:** In which year?\n**Answer:** 1921",
        "**Question 1**: Who named the mosses?\n**Answer 1**: Orsella Vantrill\n"
        "**Question 2**: In which year?\n**Answer 2**: 1921",
        "1. **Question:** Who named the mosses?\n   **Answer:** Orsella Vantrill\n"
        "2. **Question:** In which year?\n   **Answer:** 1921",
        "**Q: Who named the mosses?**\n**A: Orsella Vantrill**\n**Q: In which year?**\n**A: 1921**",
        "### Question 1\n: Who named the mosses?\nAnswer: Orsella Vantrill\n"
        "- Question 2: In which year?\n- Answer: 1921",
        "question: Who named the mosses?\nanswer: Orsella Vantrill\nQUESTION: In which year?\nANSWER: 1921",
        "Question:\nWho named the mosses?\nAnswer:\nOrsella Vantrill\nQuestion:\nIn which year?\nAnswer:\n1921",
        "Here are two questions:\n\nQ: Who named the mosses?\nA: Orsella Vantrill\n"
        "Q: In which year?\nA: 1921\n\nDone!",
    ],
)
def test_pairs_are_found_in_the_ways_models_write_them(text):
    assert parse_pairs(text) == PAIRS


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", []),
        ("Orsella Vantrill named 14 mosses in 1921.", []),
        ("Q: Who named the mosses?", []),
        ("Q: Who named the mosses?\nA:", []),
        ("Who named the mosses?\nOrsella Vantrill", []),
        ("Q: Who named the mosses?\nA:\nQ: In which year?\nA: 1921", PAIRS[1:]),
        ("Q: Who named the mosses?\nA: \n\n**Question 2:** In which year?\n**Answer:** 1921", PAIRS[1:]),
        ("Q: Who named the mosses?\nQ: In which year?\nA: 1921", PAIRS[1:]),
        ("Q: Which illness had she?\nA: Q fever\n", [("Which illness had she?", "Q fever")]),
        ("Q: Which answer is right?\nA: A", [("Which answer is right?", "A")]),
        ("Q: What is 1.5 times 2: three?\nA: 3.0", [("What is 1.5 times 2: three?", "3.0")]),
    ],
)
def test_what_is_no_pair_is_left_out_and_takes_no_neighbour_with_it(text, pairs):
    assert parse_pairs(text) == pairs


@settings(deadline=None)
@given(st.text(st.sampled_from("QA:.*1)? \nquestionansw"), max_size=80))
def test_no_answer_breaks_the_search_for_pairs(text):
    for question, answer in parse_pairs(text):
        assert "\n" not in question + answer
        assert question in text
        assert answer in text


QUESTIONS = (
    "Q: Who named the mosses on Mount Ossegrund?\nA: Orsella Vantrill\n"
    "Q: How many mosses did Orsella Vantrill name?\nA: fourteen\n"
    "Q: Where does the Vantrill herbarium lie?\nA: beside the old libr"
)


QUESTIONS_TEXT = "Question: Who named the mosses on Mount Ossegrund?\nAnswer: Orsella Vantrill"


def test_of_questions_cut_short_only_the_last_pair_falls():
    whole = check(generation(QUESTIONS + "ary"), "questions", CHUNK, FilterSettings())
    assert [reason for _, reason, _ in whole] == [None, None, None]
    assert whole[0][0] == QUESTIONS_TEXT
    cut = check(generation(QUESTIONS, finish_reason="length"), "questions", CHUNK, FilterSettings())
    assert cut[:2] == whole[:2]
    assert cut[2][1:] == ("truncated", "finish_reason=length")
    assert len(cut) == 3


@pytest.mark.parametrize(
    ("question", "answer", "reason", "detail"),
    [
        ("Who was Orsella Vantrill?", "a botanist from Karvelmoor", None, None),
        ("When did she name the mosses?", "In 1921", None, None),
        ("How many sheets are there?", "4200 sheets", None, None),
        ("How often does Threnwick open?", "two days a week", None, None),
        ("How often does it open?", "2 days a week", None, None),
        ("Who?", "Orsella Vantrill", "too_short", "Who?"),
        ("Who was Bertrand of Karvelmoor?", "a botanist", "ungrounded", "Bertrand"),
        ("Who was Orsella Vantrill?", "a chemist", "ungrounded", "answer 'a chemist'"),
        ("When did she name the mosses?", "1922", "ungrounded", "answer '1922'"),
        ("Was she from Karvelmoor?", "Yes", "ungrounded", "answer 'Yes'"),
        ("Where is the herbarium?", "Threnwick", "ungrounded", "answer 'Threnwick'"),
    ],
)
def test_a_pair_is_judged_by_its_question_and_its_answer(question, answer, reason, detail):
    assert verdict(f"Q: {question}\nA: {answer}", "questions") == (reason, detail)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("", {"error": "no room"}, "failed"),
        ("The herbarium lies beside the library.", {}, "unparsed"),
        ("The herbarium lies beside the libr", {"finish_reason": "length"}, "unparsed"),
        ("", {}, "unparsed"),
        ("I'm sorry, I can't write questions.", {}, "refusal"),
    ],
)
def test_questions_without_any_pair_are_one_dropped_text(text, changes, reason):
    assert verdict(text, "questions", **changes)[0] == reason


def table(*rows: tuple[str, str, dict[str, Any]]) -> pl.DataFrame:
    base = {name: None for name in SCHEMA} | {"chunk_id": "c1", "finish_reason": "stop"}
    listed = [
        base | {"request_id": f"r{place}", "template": template, "text": text} | changes
        for place, (template, text, changes) in enumerate(rows)
    ]
    return pl.DataFrame(listed, schema=SCHEMA)


CHUNKS = pl.DataFrame({"chunk_id": ["c1"], "text": [SOURCE], "title": ["The Threnwick herbarium"]})
ANSWERS = {"paraphrase": "text", "questions": "questions", "propose_strategies": "strategies"}


def filtered(generations: pl.DataFrame) -> pl.DataFrame:
    return filter_generations(generations, ANSWERS, CHUNKS, FilterSettings())


def test_every_text_ends_as_kept_or_dropped_and_strategies_are_no_texts():
    rows = filtered(
        table(
            ("paraphrase", FAITHFUL, {}),
            ("propose_strategies", "## List the mosses by year", {}),
            ("questions", QUESTIONS, {"finish_reason": "length"}),
            ("paraphrase", "", {"error": "no room"}),
            ("paraphrase", SOURCE, {}),
        )
    )
    assert rows.select("request_id", "template", "reason").rows() == [
        ("r0", "paraphrase", None),
        ("r2", "questions", None),
        ("r2", "questions", None),
        ("r2", "questions", "truncated"),
        ("r3", "paraphrase", "failed"),
        ("r4", "paraphrase", "copy"),
    ]
    assert rows["reason"].is_null().equals(rows["detail"].is_null())
    assert rows["id"].n_unique() == 6
    assert rows["text"].to_list()[:2] == [FAITHFUL, QUESTIONS_TEXT]
    kept, dropped = (rows.filter(pl.col("reason").is_null() == wanted) for wanted in (True, False))
    assert kept.height + dropped.height == rows.height == 1 + 3 + 1 + 1


def test_ids_depend_on_the_request_and_the_place_in_its_answer_alone():
    together = filtered(table(("paraphrase", FAITHFUL, {}), ("questions", QUESTIONS + "ary", {})))
    alone = filtered(table(("paraphrase", FAITHFUL, {}), ("questions", QUESTIONS + "ary", {})).tail(1))
    assert alone["id"].to_list() == together["id"].to_list()[1:]


@pytest.mark.parametrize(
    "generations",
    [
        table(),
        table(("propose_strategies", "## List the mosses by year", {})),
        table(("paraphrase", "", {"error": "no room"})),
        table(("paraphrase", FAITHFUL, {})),
    ],
)
def test_the_columns_keep_their_types_when_nothing_is_left_or_nothing_falls(generations):
    rows = filtered(generations)
    assert rows.schema == {**SCHEMA, "id": pl.String, "reason": pl.String, "detail": pl.String}


@pytest.mark.parametrize(
    ("question", "reply", "given"),
    [
        ("Where did Orsella Vantrill of Karvelmoor come from?", "Karvelmoor.", True),
        ("Where did Orsella Vantrill of karvelmoor come from?", "Karvelmoor", True),
        ("What did Orsella Vantrill name in 1921?", "mosses", False),
        ("How many mosses were named in 1921?", "14", False),
        ("What was named on Mount Ossegrund, the mosses' home?", "moss", False),  # a part of a word is no answer
    ],
)
def test_a_question_that_holds_its_answer_falls(question, reply, given):
    reason, _ = verdict(f"Q: {question}\nA: {reply}", "questions")
    assert reason == ("given_away" if given else None)
