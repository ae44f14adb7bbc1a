"""Coverage: what no text mentions is found, sentence by sentence and number by number."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_reading.augment import coverage as module
from active_reading.augment.coverage import SCHEMA, by_document, coverage

TEXT = "The owl of Pellamire sleeps until 6.30 in winter. It eats 14 mice! Was it tamed in 1921?\nNobody knows."


def chunks(**texts: str) -> pl.DataFrame:
    rows = [{"document_id": name[0], "chunk_id": name, "text": text} for name, text in texts.items()]
    return pl.DataFrame(rows, schema={"document_id": pl.String, "chunk_id": pl.String, "text": pl.String})


def texts(*rows: tuple[str, str]) -> pl.LazyFrame:
    return pl.LazyFrame(list(rows), {"chunk_id": pl.String, "text": pl.String}, orient="row")


def missing(found: pl.DataFrame, kind: str) -> list[str]:
    return found.filter(~pl.col("mentioned"), kind=kind)["text"].to_list()


def test_a_text_mentions_the_sentences_whose_words_it_has_and_no_others():
    found = coverage(chunks(a1=TEXT), texts(("a1", "In Pellamire an OWL sleeps in the winter; 14 mice are eaten.")))
    assert found.schema == SCHEMA
    assert found.filter(kind="sentence")["text"].to_list() == [
        "The owl of Pellamire sleeps until 6.30 in winter.",
        "It eats 14 mice!",
        "Was it tamed in 1921?",
        "Nobody knows.",
    ]
    assert missing(found, "sentence") == ["Was it tamed in 1921?", "Nobody knows."]
    assert missing(found, "number") == ["6.30", "1921"]


def test_only_texts_of_the_same_chunk_count_and_one_text_has_to_have_enough_words():
    halves = texts(("a1", "Nobody"), ("a1", "tamed"), ("b1", TEXT))
    found = coverage(chunks(a1="The heron was tamed by nobody in Umbrosel."), halves)
    assert missing(found, "sentence") == ["The heron was tamed by nobody in Umbrosel."]
    together = coverage(chunks(a1="The heron was tamed by nobody in Umbrosel."), texts(("a1", "Nobody tamed it.")))
    assert missing(together, "sentence") == []


def test_a_number_is_not_mentioned_by_a_longer_one():
    found = coverage(
        chunks(a1="It has 19 rooms and 3.5 floors."), texts(("a1", "In 1921 it had 3 rooms and 5 cats."))
    )
    assert missing(found, "number") == ["19", "3.5"]


def test_documents_are_summed_up():
    found = coverage(chunks(a1=TEXT, a2="It has 5 cats.", b1="No number here."), texts(("a1", TEXT), ("b1", "Hm.")))
    assert by_document(found).rows() == [("a", 5, 4, 4, 3), ("b", 1, 0, 0, 0)]


def test_without_texts_nothing_is_mentioned_and_without_chunks_there_is_nothing():
    assert not coverage(chunks(a1=TEXT), texts())["mentioned"].any()
    assert coverage(chunks(), texts()).schema == SCHEMA


def test_scripts_without_spaces_are_cut_at_their_own_marks():
    found = coverage(
        chunks(a1="\u6771\u4eac\u306f\u5927\u304d\u3044\u3002\u5927\u962a\u3082\u5927\u304d\u3044\u3002"), texts()
    )
    assert found.height == 2


@given(st.lists(st.text(st.sampled_from("owl 19.3!?\n\u00e9"), max_size=40), max_size=6))
def test_a_chunk_mentions_all_of_itself_and_batches_do_not_matter(bodies):
    named = chunks(**{f"a{number}": body for number, body in enumerate(bodies)})
    itself = named.lazy().select("chunk_id", "text")
    whole = coverage(named, itself)
    assert whole["mentioned"].all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_CHUNKS", 1)
        assert coverage(named, itself).equals(whole)
