"""Words and shingles against plain Python: what is a word, what is the same one, and that batches play no part."""

import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.decontaminate import normalized
from active_reading.augment.shingles import hash_names, hash_words, shingle

TEXTS = st.lists(
    st.text(
        st.sampled_from(
            "abAB19 ,.-_\n\u00e9\u00c9\u00df\u0130\u03a3\u03c3\u0430\u0410\u732b\u200b\u00a0\u2019\ufb01"
        )
    )
    | st.text(),
    max_size=6,
)


def words_of(text: str) -> list[int]:
    return hash_words(pl.Series([text]))[0].tolist()


def plain(text: str) -> list[str]:
    """The words by the expression that decontamination uses on whole texts."""
    return pl.select(normalized(pl.lit(text))).item().split()


def sets(texts: list[str], length: int = 3) -> list[set[int]]:
    made = shingle(pl.Series(texts, dtype=pl.String), length)
    return [set(made.values[start:end].tolist()) for start, end in pairwise(made.offsets)]


@settings(deadline=None, max_examples=30)
@given(TEXTS)
def test_words_are_those_of_decontamination(texts):
    """But for an accent on a punctuation mark, which has no letter to go to."""
    texts = [text for text in texts if not re.search(r"[\x00-\x7f][\u0300-\u036f\u0338]", text)]
    hashes, offsets = hash_words(pl.Series(texts, dtype=pl.String))
    assert offsets.tolist() == [0, *np.cumsum([len(plain(text)) for text in texts]).astype(int).tolist()]
    again, _ = hash_words(pl.Series([" ".join(plain(text)) for text in texts], dtype=pl.String))
    assert hashes.tolist() == again.tolist()


@settings(deadline=None, max_examples=30)
@given(TEXTS, st.integers(1, 4))
def test_a_text_has_the_same_shingles_alone_and_among_others(texts, length):
    made = shingle(pl.Series(texts, dtype=pl.String), length)
    for place, text in enumerate(texts):
        alone = shingle(pl.Series([text]), length)
        assert made.values[made.offsets[place] : made.offsets[place + 1]].tolist() == alone.values.tolist()
        assert made.exact[place] == alone.exact[0]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=6), st.integers(1, 4))
def test_shingles_are_equal_where_the_words_in_a_row_are(texts, length):
    expected = [
        {tuple(words[start : start + length]) for start in range(max(1, len(words) - length + 1))}
        for words in texts
    ]
    found = sets([" ".join(words) for words in texts], length)
    for first, first_found in zip(expected, found, strict=True):
        for second, second_found in zip(expected, found, strict=True):
            assert len(first & second) == len(first_found & second_found)
            assert len(first | second) == len(first_found | second_found)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 16, 63, 64, 65, 200])
def test_words_of_any_length_are_told_apart_by_their_last_letter_and_their_first(size):
    word = "x" * size
    others = {word, word[:-1] + "y", "y" + word[1:], word + "x", "\u00e9" + word, word + "\u00e9"}
    assert len({words_of(other)[0] for other in others}) == len(others)
    assert words_of(f"{word} z {word}")[0] == words_of(f"a {word}")[1] == words_of(word.upper())[0]


def test_the_hashes_are_the_same_on_every_machine():
    """They stand on disk: whoever changes them raises dedupe.FORMAT."""
    made = shingle(pl.Series(["The owl sleeps in the \u00e9t\u00e9"]), 3)
    assert made.exact.tolist() == [4465687296088376506]
    assert made.values.tolist() == [315800966, 93930213, 654307542, 957544588]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\u0440\u0430\u0443\u0440al", "paypal"),  # Cyrillic er, a, u, er
        ("\u0412\u041e\u0414\u0410", "\u0432\u043e\u0434\u0430"),  # VODA in capital and small letters
        ("\u039f\u03a3\u039f\u03a3", "\u03bf\u03c3\u03bf\u03c2"),  # a Greek word with its final sigma
        ("don\u2019t", "don't"),
        ("co\u00adoperate", "cooperate"),
        ("a\u00a0b\u2003c", "a b c"),
    ],
)
def test_what_reads_alike_is_the_same_word(first, second):
    assert words_of(first) == words_of(second)


@pytest.mark.parametrize(("first", "second"), [("5 \u03bcm", "5 mm"), ("\u03b1", "a"), ("\u0434", "d")])
def test_greek_symbols_and_letters_unlike_latin_ones_stay(first, second):
    assert words_of(first) != words_of(second)


def test_texts_of_a_megabyte_have_all_their_words():
    many, one = "owl " * 250_000, "x" * 1_000_000
    hashes, offsets = hash_words(pl.Series([many, "", one, "owl"]))
    assert offsets.tolist() == [0, 250_000, 250_000, 250_001, 250_002]
    assert len(set(hashes.tolist())) == 2


def test_the_order_of_words_counts_in_the_exact_hash():
    made = shingle(pl.Series(["a b c", "c b a", "a b c c", "", "...", "A, b; c"]), 3)
    assert len(set(made.exact.tolist())) == 4
    assert made.exact[3] == made.exact[4]
    assert made.exact[0] == made.exact[5]


def test_names_are_hashed_letter_for_letter():
    hashes = hash_names(pl.Series(["a", "A", "a ", "a"])).tolist()
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]
