"""Batches: the exact budget, the same for the same seed, every text before any repeat, padding ignored."""

from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.train.batches import (
    IGNORED,
    Batch,
    Sequence,
    add_replay,
    collate,
    mixed_batches,
    plan_batches,
    tokenize,
)


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


def test_mixed_batches_hold_every_text_once_and_whole_in_an_order_of_the_seed():
    texts = texts_of([5, 9, 30, 17, 2, 60, 8, 33, 4])
    first, again, other = (mixed_batches(texts, 40, seed) for seed in (4, 4, 5))
    assert sorted(flat(first)) == sorted(flat(other)) == texts
    assert first == again != other
    assert all(sum(map(len, batch)) <= 40 or len(batch) == 1 for batch in first)


def test_mixed_batches_do_not_keep_texts_of_like_length_together():
    batches = mixed_batches(texts_of([4, 30] * 10), 70, seed=0)
    assert sum(len({len(text) for text in batch}) > 1 for batch in batches) > len(batches) / 2


def test_padding_is_masked_and_ignored():
    batch = collate(Batch([[5, 6, 7], [8, 9]]), pad_token_id=6)  # the padding token also occurs in a text
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 9, IGNORED]]
    assert batch["memory_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.pop("num_targets") == 3
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_replay_is_learned_and_chooses_no_slots():
    batch = collate(Batch([[5, 6, 7]], [[8, 9], [3]]), pad_token_id=0)
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 9, IGNORED], [3, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert batch["memory_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert batch["num_targets"] == 2 + 1 + 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=9), st.lists(st.integers(2, 9), max_size=5), st.integers(1, 5)
)
def test_ranks_share_out_the_rows_of_a_batch_among_them(new, replay, num_ranks):
    texts = texts_of(new + replay)
    batch = Batch(texts[: len(new)], texts[len(new) :])
    parts = [collate(batch, 99, rank, num_ranks) for rank in range(num_ranks)]
    rows = [
        (ids[mask.bool()].tolist(), is_new)
        for part in parts
        for ids, mask, is_new in zip(
            part["input_ids"], part["attention_mask"], part["memory_mask"].tolist(), strict=True
        )
        if 99 not in ids[mask.bool()]
    ]
    assert sorted(ids for ids, _ in rows) == texts
    assert all(sum(is_new) == (len(ids) if ids[0] < len(new) else 0) for ids, is_new in rows)
    assert {part["num_targets"] for part in parts} == {sum(new + replay) - len(texts)}
    learned = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
    assert learned == batch.num_targets, "the sums over the ranks are divided by what they hold together"
    assert max(len(part["input_ids"]) for part in parts) - min(len(part["input_ids"]) for part in parts) <= 1


def test_a_rank_without_a_row_takes_part_and_learns_nothing():
    idle = collate(Batch([[5, 6, 7]], [[8, 9]]), pad_token_id=0, rank=2, num_ranks=3)
    assert idle["input_ids"].shape == (1, 2)
    assert (idle["labels"] == IGNORED).all()
    assert idle["memory_mask"].sum() == 0
    assert idle["num_targets"] == 3


GROUPED = st.lists(st.tuples(st.integers(2, 30), st.sampled_from("abcd")), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(GROUPED, st.integers(100, 600), st.integers(16, 80), st.integers(0, 3))
def test_a_batch_of_a_group_holds_no_other_and_all_together_the_budget(members, budget, batch_tokens, seed):
    texts, groups = texts_of([length for length, _ in members]), [group for _, group in members]
    batches = plan_batches(texts, budget, batch_tokens, seed, groups)
    # Texts of two tokens cannot give one to a lone token that is left.
    assert budget - (min(map(len, texts)) == 2) <= total(batches) <= budget
    for batch in batches:
        assert len({groups[text[0]] for text in batch}) == 1
        assert 0 < sum(map(len, batch)) <= batch_tokens
        assert min(map(len, batch)) >= 2


def test_groups_take_turns_and_their_texts_come_whole_and_equally_often():
    """Five rounds of three groups, each of which fits a batch."""
    texts, groups = texts_of([7, 9, 12, 5, 20, 3, 4]), list("abcabcc")
    batches = plan_batches(texts, 5 * sum(map(len, texts)), 64, seed=2, groups=groups)
    assert len(batches) == 15
    for start in range(0, 15, 3):
        assert sorted(flat(batches[start : start + 3])) == texts
        assert {groups[batch[0][0]] for batch in batches[start : start + 3]} == set("abc")
    assert (
        len({"".join(groups[batch[0][0]] for batch in batches[start : start + 3]) for start in range(0, 15, 3)}) > 1
    )


def test_a_group_larger_than_a_batch_goes_on_where_its_last_batch_ended():
    texts = texts_of([16] * 6)
    batches = plan_batches(texts, 96, 32, seed=0, groups=["one"] * 6)
    assert [len(batch) for batch in batches] == [2, 2, 2]
    assert sorted(flat(batches)) == texts


def test_the_seed_decides_the_batches_of_groups():
    texts, groups = texts_of(list(range(5, 25))), list("abcde" * 4)
    first, again, other = (plan_batches(texts, 500, 60, seed, groups) for seed in (4, 4, 5))
    assert first == again != other


def replayed(share: float, seed: int = 0) -> list[Batch]:
    """Batches of unlike widths with replay of texts whose tokens say where in the text they are."""
    planned = plan_batches(texts_of(list(range(5, 25))), 800, 60, seed=0)
    return add_replay(planned, [list(range(100, 140)), list(range(200, 230)), [300, 301, 302]], share, seed)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_replay_is_the_wanted_share_to_within_a_piece(share):
    batches = replayed(share)
    new, replay = (
        sum(len(text) for batch in batches for text in getattr(batch, kind)) for kind in ("new", "replay")
    )
    widest = max(len(text) for batch in batches for text in batch.new)
    wanted = share / (1 - share) * new
    assert wanted - widest <= replay <= wanted
    assert new == 800


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_replay_is_spread_evenly_in_pieces_no_wider_than_their_batch(share):
    new, replay = 0, 0
    for batch in replayed(share):
        width = max(map(len, batch.new))
        assert all(len(piece) <= width for piece in batch.replay)
        new, replay = new + sum(map(len, batch.new)), replay + sum(map(len, batch.replay))
        assert 0 <= share / (1 - share) * new - replay < width, "the share is met after every batch"


def test_a_piece_of_replay_is_a_part_of_one_text_as_it_stands():
    pieces = [piece for batch in replayed(0.8) for piece in batch.replay]
    assert all(piece == list(range(piece[0], piece[0] + len(piece))) for piece in pieces)
    assert {piece[0] // 100 for piece in pieces} == {1, 2, 3}
    assert len({piece[0] for piece in pieces if len(piece) > 3}) > 10, "pieces start anywhere"


def test_replay_leaves_the_new_texts_as_they_were_and_its_seed_decides_it():
    plain, mixed, again, other = replayed(0), replayed(0.5), replayed(0.5), replayed(0.5, seed=1)
    assert [batch.new for batch in mixed] == [batch.new for batch in plain]
    assert mixed == again != other
    assert all(batch.replay == [] for batch in plain), "a share of zero adds nothing"
    assert sum(len(batch.replay) for batch in mixed) > 0


def test_every_text_ends_with_the_end_token_within_the_longest_length():
    assert tokenize(["a bb ccc dddd", "ee"], WordTokenizer(), max_length=3) == [[1, 2, 0], [2, 0]]
    assert tokenize(["a bb ccc dddd"], WordTokenizer(eos_token_id=None), max_length=3) == [[1, 2, 3]]


def test_texts_without_words_are_left_out():
    assert tokenize(["", "a bb", "  "], WordTokenizer(), max_length=8) == [[1, 2, 0]]


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_to_train_on_is_refused(texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        tokenize(texts, WordTokenizer(), max_length=8)
