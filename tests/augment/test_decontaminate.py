"""Decontaminate: planted questions are found however they are written, and nothing else is."""

import random
import re
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.decontaminate import NGRAM_WORDS, evaluation_rows, mark_contaminated, normalized

QUESTION = "Where was Orsella Vantrill's stra\u00dfe-caf\u00e9 built?"
LONG = " ".join(f"word{place}" for place in range(20))


def evaluation(*texts: str | None, whole: bool = False) -> pl.DataFrame:
    return evaluation_rows({"gold": list(texts)}, whole={"gold"} if whole else ())  # type: ignore[arg-type]


def found(text: str | None, *asked: str | None, whole: bool = False) -> str | None:
    """The words found in one text."""
    texts = pl.DataFrame({"id": ["t"], "text": [text]})
    return mark_contaminated(texts, evaluation(*asked, whole=whole))["ngram"].item()


def words(text: str) -> str:
    return pl.select(normalized(pl.lit(text))).item()


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        f"Question: {QUESTION}\nAnswer: In 1921",
        QUESTION.upper(),
        "where was orsella vantrill\u2019s STRASSE caf\u00e9 built",
        unicodedata.normalize("NFD", QUESTION),
        "**Where**  was\n_Orsella_\tVantrill's\u00a0stra\u00dfe \u2014 caf\u00e9\u2026 built",
        "\uff37\uff48\uff45\uff52\uff45 was Orsella Vantrill's stra\u00dfe-caf\u00e9 built?",
        "\U0001d416\U0001d421\U0001d41e\U0001d42b\U0001d41e was Orsella Vantrill's stra\u00dfe-caf\u00e9 built?",
        "Whe\u00adre was Or\u200bsella Vantrill's stra\u00dfe-ca\ufe0ff\u00e9 built?",
    ],
    ids=[
        "as it is",
        "inside",
        "upper",
        "sharp s",
        "decomposed",
        "marks",
        "full width",
        "bold letters",
        "invisible",
    ],
)
def test_a_question_is_found_however_it_is_written(text):
    assert found(text, QUESTION) == "where was orsella vantrill s strasse caf\u00e9 built"


@pytest.mark.parametrize(
    "text",
    [
        "Where was Orsella Vantrill built?",
        "Where was Orsella Vantrill's stra\u00dfe-cafe built?",
        "Nowhere was Orsella Vantrill's stra\u00dfe-caf\u00e9 built?",
        "Where was Orsella Vantrill's stra\u00dfe-caf\u00e9 builtin?",
        "She was built. Where? Orsella Vantrill's stra\u00dfe-caf\u00e9",
        "",
        " ",
        "?!",
        None,
    ],
)
def test_other_words_parts_of_words_and_empty_texts_are_clean(text):
    assert found(text, QUESTION) is None


@pytest.mark.parametrize("asked", ["", "???", " \n", "\u200b", None])
def test_an_evaluation_text_without_a_word_matches_nothing(asked):
    assert found(" ??? \u200b ", asked) is None
    assert found(f"so {QUESTION}", asked, QUESTION) is not None


def test_thirteen_words_in_a_row_of_a_longer_text_are_enough_and_twelve_are_not():
    parts = LONG.split()
    for start in range(len(parts) - NGRAM_WORDS + 1):
        run = " ".join(parts[start : start + NGRAM_WORDS])
        assert found(f"it says: {run}, they say", LONG) == run
        assert found(f"it says: {run.rpartition(' ')[0]}, they say", LONG) is None
        assert found(f"it says: {run}, they say", LONG, whole=True) is None
    assert found(f"it says: {LONG}", LONG, whole=True) == LONG


def test_scripts_without_spaces_are_compared_by_the_character():
    question = "\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u54ea\u91cc"
    assert found(f"\u8bf7\u95ee{question}\u5462", f"{question}\uff1f") == " ".join(question)
    assert found("\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u5df4\u9ece", question) is None


def test_a_look_alike_of_another_script_is_another_letter():
    """Stated as not covered: the Cyrillic a."""
    assert found("Wh\u0430t is it", "What is it") is None


def test_the_mark_names_the_first_of_the_sets_and_the_rows_keep_their_order_and_columns():
    asked = pl.DataFrame(
        {
            "set": ["gold", "general", "general"],
            "text": ["Who is it?", "who is IT", "What for?"],
            "whole": [False, False, False],
        }
    )
    texts = pl.DataFrame({"id": ["b", "a", "c"], "text": ["What for?", "clean", "Tell: who is it, and what for?"]})
    marked = mark_contaminated(texts.with_columns(more=pl.lit(1)), asked)
    assert marked.columns == ["id", "text", "more", "evaluation_set", "evaluation_text", "ngram"]
    assert marked.select("id", "evaluation_set", "evaluation_text", "ngram").rows() == [
        ("b", "general", "What for?", "what for"),
        ("a", None, None, None),
        ("c", "gold", "Who is it?", "who is it"),
    ]


@pytest.mark.parametrize(
    "texts", [pl.DataFrame({"id": [], "text": []}), pl.DataFrame({"id": ["a"], "text": [None]})]
)
@pytest.mark.parametrize("asked", [evaluation(), evaluation("Who is it?")], ids=["nothing asked", "asked"])
def test_frames_without_any_value_keep_the_schema(texts, asked):
    marked = mark_contaminated(texts, asked)
    assert marked.height == texts.height
    assert [marked.schema[name] for name in ("text", "evaluation_set", "evaluation_text", "ngram")] == [
        pl.String
    ] * 4
    assert marked["ngram"].null_count() == texts.height


def test_every_planted_question_is_found_and_no_other_text_falls():
    source = random.Random(3)
    vocabulary = [f"word{place}" for place in range(300)]

    def some(least: int, most: int) -> list[str]:
        return source.choices(vocabulary, k=source.randint(least, most))

    asked = [some(5, 30) for _ in range(60)]
    texts, planted = [], []
    for place in range(300):
        text = some(40, 80)
        if place % 3 == 0:
            victim = source.choice(asked)
            start = source.randint(0, max(0, len(victim) - NGRAM_WORDS))
            text[20:20] = victim[start : start + NGRAM_WORDS]
            planted.append(str(place))
        texts.append(", ".join(text).title())
    frame = pl.DataFrame({"id": [str(place) for place in range(300)], "text": texts})
    marked = mark_contaminated(frame, evaluation(*map(" ".join, asked)))
    assert marked.filter(pl.col("ngram").is_not_null())["id"].to_list() == planted


SHORT = st.lists(st.sampled_from(["a", "b", "ab", "c."]), max_size=18).map(" ".join)


def brute_force(text: str, asked: list[str]) -> bool:
    """The definition, on lists of words."""
    have = re.findall("[a-z]+", text)
    for wanted in (re.findall("[a-z]+", question) for question in asked):
        length = min(NGRAM_WORDS, len(wanted))
        runs = [wanted[start : start + length] for start in range(len(wanted) - length + 1)] if wanted else []
        if any(have[start : start + length] in runs for start in range(len(have) - length + 1)):
            return True
    return False


def test_a_long_text_is_not_held_once_for_each_of_its_words():
    """A hundred thousand words squared are more than any memory."""
    book = " ".join(f"w{place}" for place in range(100_000))
    assert found("He read on: " + " ".join(f"w{place}" for place in range(70_000, 70_013)), book) is not None


@settings(deadline=None, max_examples=60)
@given(text=SHORT, asked=st.lists(SHORT, max_size=4))
def test_it_is_the_definition_by_brute_force(text, asked):
    assert (found(text, *asked) is not None) == brute_force(text, asked)


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=30))
def test_words_are_the_same_when_taken_again_and_of_every_composition(text):
    once = words(text)
    assert words(once) == once
    assert words(unicodedata.normalize("NFD", text)) == once
    assert "  " not in once.strip()
