"""Slot scores and usage by hand arithmetic, background counts by brute force."""

import math

import pytest
import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory, ValueTable
from active_reading.train.slots import Background, count_background, score_slots, usage

WIDTH = 16
# Of four slots, generic text of 99 batches reads the first in all of them, and the second never.
BACKGROUND = Background(torch.tensor([99.0, 0.0, 50.0, 9.0]), 99)


def random_memory() -> ProductKeyMemory:
    generator = torch.Generator().manual_seed(0)
    memory = ProductKeyMemory(ValueTable(36, WIDTH), num_keys=6, num_heads=2, top_k=3, key_width=4)
    for tensor in (memory.query_weight, memory.keys):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return memory


def scores(kind: str, slots: list[int], counts: list[int], background: Background = BACKGROUND) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return score_slots(kind, torch.tensor(slots).long(), torch.tensor(counts).long(), background, generator)


def test_tf_idf_by_hand():
    expected = [0.6 * math.log(100 / 100), 0.2 * math.log(100 / 1), 0.2 * math.log(100 / 10)]
    torch.testing.assert_close(scores("tf_idf", [0, 1, 3], [6, 2, 2]), torch.tensor(expected))


def test_kl_by_hand():
    usual = [100 / 162, 1 / 162, 10 / 162]  # one more than was counted, of 158 reads and four slots
    expected = [p * math.log((p + 1e-8) / (q + 1e-8)) for p, q in zip((0.6, 0.2, 0.2), usual, strict=True)]
    torch.testing.assert_close(scores("kl", [0, 1, 3], [6, 2, 2]), torch.tensor(expected))
    assert expected[0] < 0 < expected[2] < expected[1]


def test_tf_is_the_share_of_the_reads():
    torch.testing.assert_close(scores("tf", [0, 1, 3], [6, 2, 2]), torch.tensor([0.6, 0.2, 0.2]))


def test_all_scores_every_slot_that_is_read_the_same():
    assert scores("all", [0, 1, 3], [6, 2, 2]).tolist() == [1, 1, 1]


def test_random_scores_are_draws_of_the_generator():
    generator = torch.Generator().manual_seed(0)
    slots, counts = torch.arange(4), torch.ones(4, dtype=torch.long)
    first, second = (score_slots("random", slots, counts, BACKGROUND, generator) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(scores("random", [0, 1, 2, 3], [1, 1, 1, 1]), first), "and of no other"
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) == 4
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.parametrize("kind", ["tf_idf", "kl"])
def test_a_rare_slot_outranks_one_that_is_read_more_but_is_common(kind):
    common, rare = scores(kind, [0, 1], [50, 5], Background(torch.tensor([98.0, 0.0]), 99))
    assert rare > common


@pytest.mark.parametrize("kind", ["tf_idf", "kl", "tf", "all", "random"])
def test_a_step_that_read_nothing_has_no_scores(kind):
    assert scores(kind, [], []).tolist() == []


def test_background_counts_say_in_how_many_batches_a_slot_is_read():
    memory = random_memory()
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(20, WIDTH, generator=generator) + number for number in range(5)]
    expected = [0] * 36
    for batch in batches:
        read = {slot for position in batch for slot in memory.lookup(position[None])[0].flatten().tolist()}
        for slot in read:
            expected[slot] += 1
    background = count_background(memory, batches)
    assert background.counts.tolist() == expected
    assert background.num_batches == 5
    assert max(expected) > 1


def test_a_background_grows_by_a_batch():
    background = Background(torch.tensor([1.0, 0.0, 2.0]), 2)
    background.add(torch.tensor([2, 0]))
    assert (background.counts.tolist(), background.num_batches) == ([2, 0, 3], 3)


def test_usage_by_hand():
    """200 slots: two take half of the reads, fifty are read once, the rest never."""
    counts = torch.zeros(200)
    counts[:52] = 1
    counts[7], counts[30] = 30, 20
    entropy = -(0.3 * math.log(0.3) + 0.2 * math.log(0.2) + 50 * 0.01 * math.log(0.01)) / math.log(200)
    found = usage(Background(counts, 40))
    assert found == {"hub_share": 0.5, "dead_share": 0.74, "entropy": pytest.approx(entropy, abs=5e-5)}


def test_usage_of_slots_that_are_all_alike_and_of_none():
    even = usage(Background(torch.full((300,), 4.0), 9))
    assert even == {"hub_share": 0.01, "dead_share": 0.0, "entropy": 1.0}
    assert usage(Background(torch.zeros(9), 0)) == {"hub_share": 0.0, "dead_share": 1.0, "entropy": 0.0}
