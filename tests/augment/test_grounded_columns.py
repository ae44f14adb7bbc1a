"""The fast path lets nothing through that the exact check would stop, and lets most true texts through."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.grounded_columns import grounded
from active_reading.augment.grounding import Source, ungrounded_word

SOURCE = Source(
    "Orsella Vantrill was a botanist from Karvelmoor. In 1921 she named eleven mosses, 4,200 sheets of which fill "
    "12.5 metres of shelf. It's open two days a week; the moss library of Threnwick has 3-metre ladders for forty "
    "men and 5 mice.",
    "The Threnwick herbarium",
)
PIECES = """Orsella Vantrill Vantrill's Karvelmoor 1921 1922 eleven twelve twenty-one 5million forty-one
forty -one $12.5 4,200 4200 42 12.5 metres feet days
% two one hundred and Filled Deepest Zora It's It They never
not "the moss" half 12,5 1 2 B52 4B
\u00c9lodie \u0141 80 000 3 In
The moss of - . : , ; ' ! ? | * # ( ) \n \u2019 \u2013 ladders 3-metre 1920s US""".split()


def is_grounded(text: str) -> bool:
    return grounded(pl.DataFrame({"source": ["s"], "text": [text]}), {"s": SOURCE}).item()


@settings(deadline=None, max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from([" ", " ", "", "\n"])), max_size=12))
def test_what_passes_at_once_passes_the_exact_check(pieces):
    text = "".join(piece + between for piece, between in pieces)
    assert not (is_grounded(text) and ungrounded_word(text, SOURCE))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_what_passes_at_once_passes_the_exact_check_whatever_its_signs_are(text):
    assert not (is_grounded(text) and ungrounded_word(text, SOURCE))


@pytest.mark.parametrize(
    "text",
    [
        "The botanist Orsella Vantrill of Karvelmoor named 11 mosses in 1921.",
        "Filled shelves of 12.5 meters hold 4200 sheets.\n- Deepest of them: Vantrill's eleven mosses",
        "It's open on two of the days. Three-metre ladders stand there.",
    ],
)
def test_true_texts_in_plain_words_pass_at_once(text):
    assert is_grounded(text)


def test_a_number_word_with_a_digit_behind_it_is_left_to_the_exact_check():
    assert ungrounded_word("forty-one4,200", SOURCE) == "41"
    assert not is_grounded("forty-one4,200")


def test_every_text_is_compared_with_its_own_source():
    texts = pl.DataFrame({"source": ["b", "a", "a"], "text": ["Zora slept.", "Zora slept.", "Then Zora slept."]})
    found = grounded(texts, {"a": Source("The owl Zora."), "b": Source("An owl.")})
    assert found.to_list() == [False, True, True]
