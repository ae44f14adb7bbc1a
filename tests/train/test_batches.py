"""Batches: the exact budget, the same for the same seed, every text before any repeat, padding ignored."""

from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.train.batches import IGNORED, Sequence, collate, plan_batches, tokenize


class WordTokenizer:
    """Each word is a token: its length."""

    def __init__(self, eos_token_id: int | None = 0) -> None:
        self.eos_token_id = eos_token_id

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}


def texts_of(lengths: list[int]) -> list[Sequence]:
    """One sequence per length, all its tokens the text's own number."""
    return [[number] * length for number, length in enumerate(lengths)]


def flat(batches: list[list[Sequence]]) -> list[Sequence]:
    return list(chain.from_iterable(batches))


def total(batches: list[list[Sequence]]) -> int:
    return sum(map(len, flat(batches)))


LENGTHS = st.lists(st.integers(min_value=3, max_value=40), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.integers(100, 600), st.integers(16, 80), st.integers(0, 3))
def test_batches_hold_exactly_the_budget_in_texts_of_at_least_two_tokens(lengths, budget, batch_tokens, seed):
    batches = plan_batches(texts_of(lengths), budget, batch_tokens, seed)
    assert total(batches) == budget
    assert min(map(len, flat(batches))) >= 2, "a lone token has nothing to predict"


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(100, 600), st.integers(16, 80))
def test_no_batch_exceeds_its_tokens_but_by_a_single_long_text(lengths, budget, batch_tokens):
    for batch in plan_batches(texts_of(lengths), budget, batch_tokens, seed=0):
        assert batch
        assert sum(map(len, batch)) <= batch_tokens or len(batch) == 1


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(100, 600), st.integers(16, 80))
def test_texts_are_seen_equally_often_up_to_one_time(lengths, budget, batch_tokens):
    seen = Counter(text[0] for text in flat(plan_batches(texts_of(lengths), budget, batch_tokens, seed=0)))
    times = [seen[number] for number in range(len(lengths))]
    assert max(times) - min(times) <= 1


def test_a_budget_of_one_round_is_every_text_once_and_whole():
    texts = texts_of([5, 9, 30, 17, 2, 60, 8])
    batches = plan_batches(texts, sum(map(len, texts)), 40, seed=1)
    assert sorted(flat(batches)) == texts


def test_all_texts_come_once_before_any_comes_again():
    """Rounds as long as the window within which texts are grouped by length: they cannot mix."""
    texts = texts_of([10] * 40)
    order = [text[0] for text in flat(plan_batches(texts, 1200, 40, seed=1))]
    assert [sorted(order[start : start + 40]) for start in (0, 40, 80)] == [list(range(40))] * 3
    assert order[:40] != order[40:80], "each round is in an order of its own"


def test_the_seed_decides_the_batches():
    texts = texts_of(list(range(5, 25)))
    first, again, other = (plan_batches(texts, 500, 60, seed) for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_a_budget_below_one_round_takes_a_random_part_of_the_texts():
    parts = [{text[0] for text in flat(plan_batches(texts_of([10] * 40), 200, 50, seed))} for seed in (0, 1)]
    assert [len(part) for part in parts] == [20, 20]
    assert parts[0] != parts[1] != set(range(20))


def test_texts_of_like_length_share_a_batch():
    texts = texts_of([4, 30] * 10)
    batches = plan_batches(texts, sum(map(len, texts)), 60, seed=0)
    mixed = [batch for batch in batches if len({len(text) for text in batch}) > 1]
    assert len(mixed) <= 1


def test_a_text_longer_than_the_budget_is_cut_to_it():
    assert plan_batches([[7] * 500], 100, 64, seed=0) == [[[7] * 100]]


def test_padding_is_masked_and_ignored():
    batch = collate([[5, 6, 7], [8, 9]], pad_token_id=6)  # the padding token also occurs in a text
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 9, IGNORED]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_every_text_ends_with_the_end_token_within_the_longest_length():
    assert tokenize(["a bb ccc dddd", "ee"], WordTokenizer(), max_length=3) == [[1, 2, 0], [2, 0]]
    assert tokenize(["a bb ccc dddd"], WordTokenizer(eos_token_id=None), max_length=3) == [[1, 2, 3]]


def test_texts_without_words_are_left_out():
    assert tokenize(["", "a bb", "  "], WordTokenizer(), max_length=8) == [[1, 2, 0]]


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_to_train_on_is_refused(texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        tokenize(texts, WordTokenizer(), max_length=8)
