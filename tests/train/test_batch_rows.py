"""Rows of batches: replay is the wanted share, processes share them out, padding and other texts are ignored."""

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sequences import PROMPTED, ids_of, plain, prompted, texts_of

from active_reading.train.batches import IGNORED, Batch, Sequence, add_replay, collate, plan_batches


def test_padding_is_masked_and_ignored():
    batch = collate(Batch(plain([5, 6, 7], [8, 9])), pad_token_id=6)  # the padding token also occurs in a text
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 9, IGNORED]]
    assert batch["memory_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.pop("num_targets") == 3
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_replay_is_learned_and_chooses_no_slots():
    batch = collate(Batch(plain([5, 6, 7]), plain([8, 9], [3])), pad_token_id=0)
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
    assert sorted(ids for ids, _ in rows) == ids_of(texts)
    assert all(sum(is_new) == (len(ids) if ids[0] < len(new) else 0) for ids, is_new in rows)
    assert {part["num_targets"] for part in parts} == {sum(new + replay) - len(texts)}
    learned = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
    assert learned == batch.num_targets, "the sums over the ranks are divided by what they hold together"
    assert max(len(part["input_ids"]) for part in parts) - min(len(part["input_ids"]) for part in parts) <= 1


def test_a_rank_without_a_row_takes_part_and_learns_nothing():
    idle = collate(Batch(plain([5, 6, 7]), plain([8, 9])), pad_token_id=0, rank=2, num_ranks=3)
    assert idle["input_ids"].shape == (1, 2)
    assert (idle["labels"] == IGNORED).all()
    assert idle["memory_mask"].sum() == 0
    assert idle["num_targets"] == 3


def replayed(share: float, seed: int = 0) -> list[Batch]:
    """Batches of unlike widths with replay of texts whose tokens say where in the text they are."""
    planned = plan_batches(texts_of(list(range(5, 25))), 800, 60, seed=0)
    source = plain(list(range(100, 140)), list(range(200, 230)), [300, 301, 302])
    return add_replay(planned, source, share, seed)


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


def test_batches_of_one_long_sequence_get_their_replay_in_shorter_pieces():
    batches = add_replay([texts_of([100]) for _ in range(40)], plain(list(range(500))), 0.05, seed=0)
    sizes = [sum(map(len, batch.replay)) for batch in batches]
    assert all(25 <= size <= 30 for size in sizes if size)
    assert sum(size > 0 for size in sizes) == 8, "every fifth step, not once in twenty"
    many = add_replay([texts_of([100])], plain(list(range(500))), 0.75, seed=0)
    assert [len(piece) for piece in many[0].replay] == [100, 100, 100], "and in long ones where there is much of it"


@pytest.mark.parametrize("lengths", [[1], [2], [2, 3], [290, 5, 5], [60, 70, 80], [30] * 9])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.999])
def test_replay_of_short_texts_fills_batches_of_any_shape(lengths, share):
    batches = add_replay([texts_of(lengths) for _ in range(50)], plain([1, 2, 3], [4, 5]), share, seed=0)
    new, replay = 50 * sum(lengths), sum(len(piece) for batch in batches for piece in batch.replay)
    wanted = share / (1 - share) * new
    assert wanted - max(2, *lengths) <= replay <= wanted + 1e-6
    assert all(1 <= len(piece) <= 3 for batch in batches for piece in batch.replay)


def test_a_piece_of_replay_is_a_part_of_one_text_as_it_stands():
    pieces = [piece.ids for batch in replayed(0.8) for piece in batch.replay]
    assert all(piece == list(range(piece[0], piece[0] + len(piece))) for piece in pieces)
    assert {piece[0] // 100 for piece in pieces} == {1, 2, 3}
    assert len({piece[0] for piece in pieces if len(piece) > 3}) > 10, "pieces start anywhere"


def test_replay_leaves_the_new_texts_as_they_were_and_its_seed_decides_it():
    plain, mixed, again, other = replayed(0), replayed(0.5), replayed(0.5), replayed(0.5, seed=1)
    assert [batch.new for batch in mixed] == [batch.new for batch in plain]
    assert mixed == again != other
    assert all(batch.replay == [] for batch in plain), "a share of zero adds nothing"
    assert sum(len(batch.replay) for batch in mixed) > 0


def test_a_prompt_is_read_and_not_learned():
    texts = [Sequence([5, 6, 7, 8], 2), Sequence([3, 4], 1), Sequence([9, 1], 2)]
    batch = collate(Batch(texts, plain([2, 2, 2])), pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [3, 4, 0, 0], [9, 1, 0, 0], [2, 2, 2, 0]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, 7, 8],
        [IGNORED, 4, IGNORED, IGNORED],
        [IGNORED] * 4,
        [2, 2, 2, IGNORED],
    ]
    assert batch["memory_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert batch["num_targets"] == 2 + 1 + 0 + 2, "the first token of a text is predicted from nothing"


def test_packed_texts_lie_end_to_end_and_none_is_asked_for_the_next():
    texts = [Sequence([5, 6, 7]), Sequence([8, 9, 1, 2], 2)]
    batch = collate(Batch(texts, plain([3], [4, 4])), pad_token_id=0, packing=True)
    assert batch.pop("num_targets") == 2 + 2 + 0 + 1
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 1, 2, 3, 4, 4]],
        "position_ids": [[0, 1, 2, 0, 1, 2, 3, 0, 0, 1]],
        "labels": [[IGNORED, 6, 7, IGNORED, IGNORED, 1, 2, IGNORED, IGNORED, 4]],
        "memory_mask": [[1, 1, 1, 1, 1, 1, 1, 0, 0, 0]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def predictions(part: dict[str, Any]) -> list[tuple[list[int], int]]:
    """Every target of a padded or a packed batch, with the tokens of its own text that stand before it."""
    found = []
    for row, labels in enumerate(part["labels"].tolist()):
        ids = part["input_ids"][row].tolist()
        begins = part["position_ids"][row].tolist() if "position_ids" in part else range(len(ids))
        found += [(ids[t - begins[t] : t], labels[t]) for t in range(1, len(ids)) if labels[t] != IGNORED]
    return found


@settings(max_examples=100, deadline=None)
@given(PROMPTED, st.lists(st.integers(1, 9), max_size=5), st.integers(1, 5))
def test_packed_or_padded_ranks_predict_all_targets_of_a_batch_once(members, replay, num_ranks):
    batch = Batch(prompted(members), plain(*([50 + length] * length for length in replay)))
    expected = [
        (text.ids[:place], text.ids[place])
        for text in batch.new + batch.replay
        for place in range(max(1, text.num_prompt), len(text))
    ]
    for packing in (False, True):
        parts = [collate(batch, 99, rank, num_ranks, packing) for rank in range(num_ranks)]
        assert sorted(chain.from_iterable(map(predictions, parts))) == sorted(expected)
        assert {part["num_targets"] for part in parts} == {len(expected)}
        assert sum(int(part["memory_mask"].sum()) for part in parts) == sum(map(len, batch.new))
        assert all(len(part["input_ids"]) == 1 for part in parts if packing)


def test_a_rank_without_a_text_learns_nothing_packed_too():
    idle = collate(Batch(plain([5, 6, 7])), pad_token_id=0, rank=1, num_ranks=2, packing=True)
    assert (idle["input_ids"].shape, idle["num_targets"]) == ((1, 2), 2)
    assert (idle["labels"] == IGNORED).all()
    assert idle["memory_mask"].sum() == 0
