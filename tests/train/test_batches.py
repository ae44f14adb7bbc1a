"""Batches: the exact budget, the same for the same seed, every text before any repeat, no group with another."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sequences import PROMPTED, flat, ids_of, plain, prompted, texts_of, total

from active_reading.train.batches import Sequence, even_batches, mixed_batches, plan_batches

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
    assert sorted(flat(batches)) == ids_of(texts)


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
    assert plan_batches(plain([7] * 500), 100, 64, seed=0) == [plain([7] * 100)]


def test_mixed_batches_hold_every_text_once_and_whole_in_an_order_of_the_seed():
    texts = texts_of([5, 9, 30, 17, 2, 60, 8, 33, 4])
    first, again, other = (mixed_batches(texts, 40, seed) for seed in (4, 4, 5))
    assert sorted(flat(first)) == sorted(flat(other)) == ids_of(texts)
    assert first == again != other
    assert all(sum(map(len, batch)) <= 40 or len(batch) == 1 for batch in first)


def test_mixed_batches_do_not_keep_texts_of_like_length_together():
    batches = mixed_batches(texts_of([4, 30] * 10), 70, seed=0)
    assert sum(len({len(text) for text in batch}) > 1 for batch in batches) > len(batches) / 2


def test_even_batches_hold_every_text_once_and_hardly_any_padding():
    texts = texts_of([5, 9, 30, 17, 2, 60, 8, 33, 4] * 9)
    batches = even_batches(texts, 70)
    assert sorted(flat(batches)) == sorted(ids_of(texts))
    assert all(sum(map(len, batch)) <= 70 for batch in batches)
    padded = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert padded < 1.2 * sum(map(len, texts))


GROUPED = st.lists(st.tuples(st.integers(2, 30), st.sampled_from("abcd")), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(GROUPED, st.integers(100, 600), st.integers(16, 80), st.integers(0, 3))
def test_a_batch_of_a_group_holds_no_other_and_all_together_the_budget(members, budget, batch_tokens, seed):
    texts, groups = texts_of([length for length, _ in members]), [group for _, group in members]
    batches = plan_batches(texts, budget, batch_tokens, seed, groups)
    # Texts of two tokens cannot give one to a lone token that is left.
    assert budget - (min(map(len, texts)) == 2) <= total(batches) <= budget
    for batch in batches:
        assert len({groups[text.ids[0]] for text in batch}) == 1
        assert 0 < sum(map(len, batch)) <= batch_tokens
        assert min(map(len, batch)) >= 2


def test_groups_take_turns_and_their_texts_come_whole_and_equally_often():
    """Five rounds of three groups, each of which fits a batch."""
    texts, groups = texts_of([7, 9, 12, 5, 20, 3, 4]), list("abcabcc")
    batches = plan_batches(texts, 5 * sum(map(len, texts)), 64, seed=2, groups=groups)
    assert len(batches) == 15
    for start in range(0, 15, 3):
        assert sorted(flat(batches[start : start + 3])) == ids_of(texts)
        assert {groups[batch[0].ids[0]] for batch in batches[start : start + 3]} == set("abc")
    rounds = {"".join(groups[ids[0][0]] for ids in map(ids_of, batches[i : i + 3])) for i in range(0, 15, 3)}
    assert len(rounds) > 1


def test_a_group_larger_than_a_batch_goes_on_where_its_last_batch_ended():
    texts = texts_of([16] * 6)
    batches = plan_batches(texts, 96, 32, seed=0, groups=["one"] * 6)
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert sorted(flat(batches)) == ids_of(texts)


def test_the_seed_decides_the_batches_of_groups():
    texts, groups = texts_of(list(range(5, 25))), list("abcde" * 4)
    first, again, other = (plan_batches(texts, 500, 60, seed, groups) for seed in (4, 4, 5))
    assert first == again != other


@settings(max_examples=150, deadline=None)
@given(PROMPTED, st.integers(60, 300), st.integers(16, 80), st.booleans())
def test_the_budget_cuts_texts_with_their_prompts_and_counts_all_tokens(members, budget, batch_tokens, grouped):
    texts = [*prompted(members), Sequence([99] * 9, 4)]
    groups = ["ab"[number % 2] for number in range(len(texts))] if grouped else None
    batches = plan_batches(texts, budget, batch_tokens, 0, groups)
    assert total(batches) == budget
    for text in chain.from_iterable(batches):
        source = texts[min(text.ids[0], len(texts) - 1)]
        assert text == Sequence(source.ids[: len(text)], min(source.num_prompt, len(text)))
        assert source.num_prompt < len(source), "a text without an answer is left out"


def test_a_text_without_an_answer_is_left_out_with_its_group():
    texts = [Sequence([0] * 8, 2), Sequence([1] * 8, 8), Sequence([2] * 8), Sequence([3] * 8, 8)]
    batches = plan_batches(texts, 96, 16, seed=0, groups=["a", "a", "b", "c"])
    assert {text[0] for text in flat(batches)} == {0, 2}
    assert {len({text.ids[0] for text in batch}) for batch in batches} == {1}


def test_texts_that_all_lack_an_answer_are_refused():
    with pytest.raises(ValueError, match="no text has its answer within train.max_length tokens"):
        plan_batches([Sequence([1] * 8, 8)] * 2, 96, 16, seed=0)


def test_sequences_that_are_shuffled_already_keep_their_order_once():
    sequences = texts_of([5] * 12)

    batches = plan_batches(sequences, 60, 5, seed=1, shuffled=True)
    windows = [ids for batch in batches for ids in ids_of(batch)]

    assert {ids[0] for ids in windows[:10]} == set(range(10))  # a window of ten batches is shuffled in itself
