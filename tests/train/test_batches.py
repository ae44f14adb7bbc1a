"""Batches: the exact budget, the same for the same seed, every text before any repeat, padding ignored.

Also: of question-answer texts the answer alone is a target when that is asked for, and texts are packed.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate, chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.train.batches import (
    IGNORED,
    SEPARATOR,
    Batch,
    Sequence,
    add_replay,
    collate,
    even_batches,
    join_texts,
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
    return [Sequence([number] * length) for number, length in enumerate(lengths)]


def plain(*texts: list[int]) -> list[Sequence]:
    return [Sequence(ids) for ids in texts]


def ids_of(texts: Iterable[Sequence]) -> list[list[int]]:
    return [text.ids for text in texts]


def flat(batches: list[list[Sequence]]) -> list[list[int]]:
    return ids_of(chain.from_iterable(batches))


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


PROMPTED = st.lists(st.tuples(st.integers(3, 30), st.integers(0, 30)), min_size=1, max_size=10)


def prompted(members: list[tuple[int, int]]) -> list[Sequence]:
    """As `texts_of`, each with a prompt that may be all of it."""
    return [Sequence([number] * length, min(length, prompt)) for number, (length, prompt) in enumerate(members)]


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


def test_sequences_that_are_shuffled_already_keep_their_order_once():
    sequences = texts_of([5] * 12)

    batches = plan_batches(sequences, 60, 5, seed=1, shuffled=True)
    windows = [ids for batch in batches for ids in ids_of(batch)]

    assert {ids[0] for ids in windows[:10]} == set(range(10))  # a window of ten batches is shuffled in itself
