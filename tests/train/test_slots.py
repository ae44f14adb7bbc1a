"""Slot ranking by hand arithmetic, background counts by brute force, and keys that leave no hubs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from active_reading.train.codebooks import set_codebooks
from active_reading.train.memory import ProductKeyMemory
from active_reading.train.slots import count_background, select_slots, tf_idf

WIDTH = 16


def random_memory(num_keys: int = 6, num_heads: int = 2, top_k: int = 3) -> ProductKeyMemory:
    generator = torch.Generator().manual_seed(0)
    memory = ProductKeyMemory(WIDTH, num_keys, num_heads, top_k, key_width=4)
    for tensor in (memory.query_weight, memory.keys):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return memory


def clustered_states(count: int = 2000) -> Tensor:
    """Hidden states like a model's: crowded clusters, a few huge directions, a mean far from zero."""
    generator = torch.Generator().manual_seed(3)
    centers = torch.randn(40, WIDTH, generator=generator)
    states = centers[torch.randint(40, (count,), generator=generator)]
    states = states + 0.2 * torch.randn(count, WIDTH, generator=generator)
    return states * torch.logspace(0, 1.5, WIDTH) + 10


def hub_share(memory: ProductKeyMemory, states: Tensor) -> float:
    """Share of the reads that the 5 % most read slots take."""
    slots, _ = memory.lookup(states)
    counts = torch.bincount(slots.flatten(), minlength=memory.num_slots).sort(descending=True).values
    return float(counts[: memory.num_slots // 20].sum() / counts.sum())


def test_tf_idf_by_hand():
    counts = torch.tensor([6.0, 2.0, 0.0, 2.0])
    background = torch.tensor([99.0, 0.0, 0.0, 9.0])
    scores = tf_idf(counts, background, num_background_batches=99)
    expected = [0.6 * math.log(100 / 100), 0.2 * math.log(100 / 1), 0.0, 0.2 * math.log(100 / 10)]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_tf_idf_of_a_step_that_read_nothing_is_zero():
    assert tf_idf(torch.zeros(3), torch.tensor([1.0, 0.0, 5.0]), 5).tolist() == [0.0, 0.0, 0.0]


def test_a_rare_slot_outranks_one_that_is_read_more_but_is_common():
    scores = tf_idf(torch.tensor([50.0, 5.0]), torch.tensor([98.0, 0.0]), 99)
    assert scores[1] > scores[0]


def test_the_best_read_slots_are_selected_best_first():
    scores, counts = torch.tensor([0.1, 0.0, 0.5, 0.3, 0.2]), torch.tensor([1.0, 0.0, 4.0, 2.0, 3.0])
    assert select_slots(scores, counts, 3).tolist() == [2, 3, 4]


def test_a_read_slot_of_score_zero_is_selected_before_any_unread_one():
    """A slot that every background batch reads scores exactly zero, as unread slots do."""
    counts = torch.tensor([0.0, 0.0, 0.0, 3.0, 1.0])
    scores = tf_idf(counts, torch.tensor([0.0, 0.0, 0.0, 7.0, 2.0]), 7)
    assert scores[3] == 0
    assert sorted(select_slots(scores, counts, 2).tolist()) == [3, 4]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 3, 8])), min_size=1, max_size=30),
    st.integers(min_value=1, max_value=40),
)
def test_selection_never_takes_an_unread_slot_and_fills_up_with_read_ones(slots, top_t):
    counts = torch.tensor([float(count) for count, _ in slots])
    scores = tf_idf(counts, torch.tensor([float(background) for _, background in slots]), 8)
    chosen = select_slots(scores, counts, top_t)
    assert (counts[chosen] > 0).all()
    assert len(set(chosen.tolist())) == len(chosen) == min(top_t, int((counts > 0).sum()))
    left = scores[[i for i in range(len(slots)) if counts[i] > 0 and i not in chosen.tolist()]]
    assert not len(left) or scores[chosen].min() >= left.max()


def test_background_counts_say_in_how_many_batches_a_slot_is_read():
    memory = random_memory()
    batches = [clustered_states(count=20) + seed for seed in range(5)]
    expected = [0] * memory.num_slots
    for batch in batches:
        read = {slot for position in batch for slot in memory.lookup(position[None])[0].flatten().tolist()}
        for slot in read:
            expected[slot] += 1
    assert count_background(memory, batches).tolist() == expected
    assert max(expected) > 1


def test_keys_from_data_leave_fewer_hubs_than_random_keys():
    states = clustered_states()
    fitted = random_memory(num_keys=16, num_heads=4, top_k=4)
    random_share = hub_share(fitted, states)
    set_codebooks(fitted, states, seed=0)
    assert hub_share(fitted, states) < 0.5 * random_share


def test_queries_from_data_are_centred_and_of_unit_variance_in_every_direction():
    states = clustered_states()
    memory = ProductKeyMemory(WIDTH, num_keys=4, num_heads=2, top_k=2, key_width=4)  # 16 columns: square
    set_codebooks(memory, states, seed=0)
    queries = memory.queries(states).flatten(1)
    torch.testing.assert_close(queries.mean(0), torch.zeros(16), rtol=0, atol=2e-3)
    torch.testing.assert_close(queries.T @ queries / len(states), torch.eye(16), rtol=0, atol=0.02)


def test_a_direction_of_almost_no_variance_is_not_blown_up():
    states = clustered_states()
    states[:, 0] = 5 + 1e-6 * torch.randn(len(states), generator=torch.Generator().manual_seed(0))
    memory = ProductKeyMemory(WIDTH, num_keys=4, num_heads=2, top_k=2, key_width=4)
    set_codebooks(memory, states, seed=0)
    moved = states.clone()
    moved[:, 0] += 0.01  # ten thousand times its spread, and still nothing against the other directions
    torch.testing.assert_close(memory.queries(moved), memory.queries(states), rtol=0, atol=0.05)


def test_each_key_is_the_mean_of_the_queries_nearest_to_it():
    states = clustered_states(400)
    memory = ProductKeyMemory(WIDTH, num_keys=5, num_heads=1, top_k=1, key_width=8)
    set_codebooks(memory, states, seed=0)
    queries = memory.queries(states)[:, 0, 1]
    nearest = torch.cdist(queries, memory.keys[0, 1]).argmin(1)
    for key in range(5):
        torch.testing.assert_close(memory.keys[0, 1, key], queries[nearest == key].mean(0), rtol=0.05, atol=0.05)


def test_codebooks_depend_on_the_seed_alone():
    states, keys = clustered_states(300), []
    for seed in (0, 0, 1):
        memory = random_memory()
        set_codebooks(memory, states, seed)
        keys.append(memory.keys.clone())
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])


def test_heads_that_need_more_columns_than_the_model_is_wide_get_several_rotations():
    memory = ProductKeyMemory(WIDTH, num_keys=4, num_heads=3, top_k=2, key_width=8)  # 48 columns for width 16
    set_codebooks(memory, clustered_states(200), seed=0)
    assert torch.isfinite(memory.keys).all()
    assert torch.linalg.matrix_rank(memory.query_weight[:, 16:32]) == WIDTH
    assert not torch.allclose(memory.query_weight[:, :16], memory.query_weight[:, 16:32])


def test_too_few_background_tokens_for_the_keys_are_refused_with_the_cure():
    memory = random_memory(num_keys=6)
    with pytest.raises(ValueError, match=r"5 background tokens cannot give 6 keys: lower train.memory.num_keys"):
        set_codebooks(memory, clustered_states(5), seed=0)
