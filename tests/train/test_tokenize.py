"""Texts as tokens: each ends with the end token, and several share a sequence where that is asked for.

Also: of question-answer texts the answer alone is a target when that is asked for.
"""

import random
import re
from itertools import accumulate, chain, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sequences import WordTokenizer, plain

from active_reading.train.batches import SEPARATOR, Sequence, join_texts, tokenize


def test_every_text_ends_with_the_end_token_within_the_longest_length():
    assert tokenize(["a bb ccc dddd", "ee"], WordTokenizer(), max_length=3) == plain([1, 2, 0], [2, 0])
    assert tokenize(["a bb ccc dddd"], WordTokenizer(eos_token_id=None), max_length=3) == plain([1, 2, 3])


def test_texts_without_words_are_left_out():
    assert tokenize(["", "a bb", "  "], WordTokenizer(), max_length=8) == plain([1, 2, 0])


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_to_train_on_is_refused(texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        tokenize(texts, WordTokenizer(), max_length=8)


class PieceTokenizer:
    """Knows one text, as the pieces that are its tokens; an id is the place of its piece."""

    eos_token_id, is_fast = 99, True

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def __call__(self, texts: list[str], add_special_tokens: bool, return_offsets_mapping: bool) -> dict[str, Any]:
        assert texts == ["".join(self.pieces)]
        assert return_offsets_mapping
        assert not add_special_tokens
        stops = list(accumulate(map(len, self.pieces)))
        offsets = list(zip([0, *stops], stops, strict=False))
        return {"input_ids": [list(range(len(stops)))], "offset_mapping": [offsets]}


def learned(*pieces: str, max_length: int = 50) -> Sequence:
    (text,) = tokenize(["".join(pieces)], PieceTokenizer(*pieces), max_length, answers_only=True)
    return text


@pytest.mark.parametrize(
    ("num_prompt", "pieces"),
    [
        (6, ["Question:", " Who", "?", "\n", "Answer", ":", " Paris", "."]),
        (5, ["Question:", " Who", "?", "\n", "Answer:", "Paris", "."]),
        (1, ["Question: Who?\nAnswer", ": Paris", "."]),  # one token ends the question and begins the answer
        (3, ["Question: Why is", " Answer:", "\nAnswer:", " Paris"]),  # the first stands within a line
        (2, ["Question: Who?", "\nAnswer:", " Paris", "\nAnswer:", " Rome"]),  # the second is in the answer
        (3, ["Question: Who", "\nand why?", "\nAnswer:", " Paris"]),
        (0, ["Her Question: Who?", "\nAnswer:", " Paris"]),
        (0, ["Question: Who?", " Paris"]),
        (0, ["Question: Who?", " Answer:", " Paris"]),
        (0, ["Answer:", " Paris"]),
    ],
)
def test_only_the_answer_of_a_question_answer_text_is_a_target(num_prompt, pieces):
    assert learned(*pieces) == Sequence([*range(len(pieces)), 99], num_prompt)


def test_the_answer_of_a_real_tokenizer_begins_after_the_colon(tiny_tokenizer):
    """Letters of several bytes, each a token, stand on both sides."""
    texts = ["Question: O\u00f9 est-il?\nAnswer: \u00c0 Z\u00fcrich", "\u00c0 Z\u00fcrich\nAnswer: no"]
    question, other = tokenize(texts, tiny_tokenizer, 99, answers_only=True)
    parts = question.ids[: question.num_prompt], question.ids[question.num_prompt :]
    assert list(map(tiny_tokenizer.decode, parts)) == [
        "Question: O\u00f9 est-il?\nAnswer:",
        " \u00c0 Z\u00fcrich<|end|>",
    ]
    assert other.num_prompt == 0
    whole = tokenize(texts, tiny_tokenizer, 99)
    assert whole == plain(question.ids, other.ids), "the tokens are the same, and all are targets"


def test_a_tokenizer_that_does_not_say_where_its_tokens_stand_is_refused():
    slow = WordTokenizer()
    slow.is_fast = False
    with pytest.raises(ValueError, match="train.question_loss=answer: WordTokenizer does not say where"):
        tokenize(["a bb"], slow, 8, answers_only=True)


QUESTION = ["Question: Who?", "\n", "Answer:", " Paris", " or", " Rome"]


@pytest.mark.parametrize(
    ("max_length", "num_prompt", "num_targets"), [(9, 3, 4), (7, 3, 4), (6, 3, 3), (5, 3, 2), (4, 4, 0), (3, 3, 0)]
)
def test_an_answer_that_is_cut_is_learned_as_far_as_it_goes_and_a_lone_end_is_not(
    max_length, num_prompt, num_targets
):
    text = learned(*QUESTION, max_length=max_length)
    assert text.ids == [*range(min(6, max_length - 1)), 99]
    assert (text.num_prompt, text.num_targets) == (num_prompt, num_targets)


def test_a_part_of_a_text_has_its_part_of_the_prompt():
    text = Sequence([11, 12, 13, 14, 15, 16], num_prompt=4)
    parts = [text.part(0, 6), text.part(0, 5), text.part(0, 3), text.part(2, 6), text.part(4, 6), text.part(5, 6)]
    assert [part.ids[0] for part in parts] == [11, 11, 11, 13, 15, 16]
    assert [part.num_prompt for part in parts] == [4, 4, 3, 2, 0, 0]
    assert [part.num_targets for part in parts] == [2, 1, 0, 2, 1, 0]


class LineTokenizer(WordTokenizer):
    """Each word is a token, and each line end; two of them behind a text are one."""

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, Any]:
        spaced = [re.sub(r"\n\n$", " both", text).replace("\n", " end ") for text in texts]
        return super().__call__(spaced, add_special_tokens)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 4), st.integers(15, 30), st.integers(0, 3)
)
def test_joined_texts_come_once_and_no_company_is_cut(lengths, most, max_length, seed):
    texts = [" ".join([chr(97 + number)] * length) for number, length in enumerate(lengths)]

    joined = next(join_texts(texts, LineTokenizer(), most, max_length, random.Random(seed)))

    parts = [text.split(SEPARATOR) for text in joined]
    assert sorted(chain.from_iterable(parts)) == sorted(texts)
    assert all(len(company) <= most for company in parts)
    tokens = [len(sequence) for sequence in tokenize(joined, LineTokenizer(), max_length)]
    assert sum(tokens) == sum(lengths) + 2 * (len(texts) - len(joined)) + len(joined)
    full = [len(company) == most for company in parts[:-1]]
    assert most == 1 or all(full) or sum(lengths) > max_length - 12 - 2 * len(texts)  # no room is given away


def test_a_text_has_other_company_each_time():
    texts = [f"text{number}" for number in range(6)]

    passes = list(islice(join_texts(texts, WordTokenizer(), 3, 100, random.Random(0)), 4))

    assert len({frozenset(text.split(SEPARATOR)) for text in chain.from_iterable(passes)}) > 2
    assert passes[0] == next(join_texts(texts, WordTokenizer(), 3, 100, random.Random(0)))


def test_blank_texts_keep_nobody_company():
    assert next(join_texts(["", " \n"], WordTokenizer(), 2, 100, random.Random(0))) == []
    joined = next(join_texts(["", "a", " ", "b"], WordTokenizer(), 2, 100, random.Random(1)))
    assert sorted(joined[0]) == sorted("a\n\nb")
