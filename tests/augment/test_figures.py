"""Figures of faithfulness and diversity, by hand."""

import polars as pl
import pytest

from active_reading.augment import figures
from active_reading.augment.figures import diversity, faithfulness


def test_the_grounded_share_is_of_the_texts_that_were_compared_with_their_chunk():
    funnel = [
        {"template": "a", "texts": 10, "dropped": {"truncated": 1, "unparsed": 1, "ungrounded": 2, "copy": 3}},
        {"template": "b", "texts": 0, "dropped": {}},
        {"template": "c", "texts": 2, "dropped": {"failed": 2}},
    ]
    assert faithfulness(funnel) == {"a": {"checked": 8, "grounded": 0.75}}


CHUNKS = pl.DataFrame({"chunk_id": ["c"], "text": ["one two three four five six"]})


def rows(*texts: tuple[str, str]) -> pl.LazyFrame:
    templates, words = zip(*texts, strict=True)
    ids = [f"{place}" for place in range(len(texts))]
    return pl.LazyFrame({"id": ids, "template": templates, "text": words, "chunk_id": ["c"] * len(texts)})


def test_distinct_and_copied_by_hand():
    lines = diversity(
        rows(
            ("chunk", "one two three four"),
            ("new", "ONE, two three four five x"),  # runs of four: 1234, 2345, 345x
            ("new", "one two three y"),  # 123y
            ("new", "short"),
        ),
        CHUNKS,
    )
    assert lines[0] == {"template": "chunk", "sample": 1, "distinct": 1.0, "copied": None, "copied_error": None}
    assert lines[1]["sample"] == 3
    assert lines[1]["distinct"] == pytest.approx(5 / 6)  # 123 234 345 45x, 123 23y
    assert lines[1]["copied"] == pytest.approx((2 / 3 + 0) / 2)
    assert lines[1]["copied_error"] == pytest.approx(1 / 3)


def test_texts_too_short_for_a_run_have_no_figure():
    (line,) = diversity(rows(("new", "a b")), CHUNKS)
    assert (line["distinct"], line["copied"], line["copied_error"]) == (None, None, None)


def test_the_sample_does_not_depend_on_the_order_of_rows(monkeypatch):
    monkeypatch.setattr(figures, "SAMPLE", 2)
    texts = rows(*[("new", f"one two three four {word}") for word in "abcdef"])
    assert diversity(texts, CHUNKS) == diversity(texts.reverse(), CHUNKS)
    assert diversity(texts, CHUNKS)[0]["sample"] == 2
