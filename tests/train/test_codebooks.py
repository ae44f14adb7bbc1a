"""Keys from data: they leave no hubs, and the queries they are made of are half whitened."""

import pytest
import torch
from torch import Tensor

from active_reading.train.codebooks import random_codebooks, set_codebooks
from active_reading.train.memory import ProductKeyMemory, ValueTable

WIDTH = 16


def memory_of(num_keys: int, num_heads: int, top_k: int, key_width: int = 4) -> ProductKeyMemory:
    return ProductKeyMemory(ValueTable(num_keys**2, WIDTH), num_keys, num_heads, top_k, key_width)


def random_memory(num_keys: int = 6, num_heads: int = 2, top_k: int = 3) -> ProductKeyMemory:
    generator = torch.Generator().manual_seed(0)
    memory = memory_of(num_keys, num_heads, top_k)
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
    counts = torch.bincount(slots.flatten(), minlength=memory.table.num_slots).sort(descending=True).values
    return float(counts[: memory.table.num_slots // 20].sum() / counts.sum())


def test_keys_from_data_leave_fewer_hubs_than_random_keys():
    states = clustered_states()
    fitted = random_memory(num_keys=16, num_heads=4, top_k=4)
    random_share = hub_share(fitted, states)
    set_codebooks(fitted, states, seed=0)
    assert hub_share(fitted, states) < 0.5 * random_share


def test_queries_from_data_are_centred_and_half_whitened():
    """Each direction's variance becomes its root, times what makes their mean 1."""
    states = clustered_states()
    memory = memory_of(num_keys=4, num_heads=2, top_k=2, key_width=4)  # 16 columns: square
    set_codebooks(memory, states, seed=0)
    queries = memory.queries(states).flatten(1)
    torch.testing.assert_close(queries.mean(0), torch.zeros(16), rtol=0, atol=2e-3)
    roots = torch.linalg.eigvalsh(torch.cov(states.T)).sqrt()
    assert roots.max() > 20 * roots.min()
    torch.testing.assert_close(torch.linalg.eigvalsh(torch.cov(queries.T)), roots / roots.mean(), rtol=0.01, atol=0)


def test_a_direction_of_almost_no_variance_is_not_blown_up():
    states = clustered_states()
    states[:, 0] = 5 + 1e-6 * torch.randn(len(states), generator=torch.Generator().manual_seed(0))
    memory = memory_of(num_keys=4, num_heads=2, top_k=2, key_width=4)
    set_codebooks(memory, states, seed=0)
    moved = states.clone()
    moved[:, 0] += 0.01  # ten thousand times its spread, and still nothing against the other directions
    torch.testing.assert_close(memory.queries(moved), memory.queries(states), rtol=0, atol=0.05)


def test_each_key_is_the_mean_of_the_queries_nearest_to_it():
    states = clustered_states(400)
    memory = memory_of(num_keys=8, num_heads=1, top_k=1, key_width=8)
    set_codebooks(memory, states, seed=0)
    queries = memory.queries(states)[:, 0, 1]
    nearest = torch.cdist(queries, memory.keys[0, 1]).argmin(1)
    for key in range(8):
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
    memory = memory_of(num_keys=4, num_heads=3, top_k=2, key_width=8)  # 48 columns for width 16
    set_codebooks(memory, clustered_states(200), seed=0)
    assert torch.isfinite(memory.keys).all()
    assert torch.linalg.matrix_rank(memory.query_weight[:, 16:32]) == WIDTH
    assert not torch.allclose(memory.query_weight[:, :16], memory.query_weight[:, 16:32])


def test_too_few_background_tokens_for_the_keys_are_refused_with_the_cure():
    memory = random_memory(num_keys=6)
    with pytest.raises(ValueError, match=r"5 background tokens cannot give 6 keys: lower train.memory.num_keys"):
        set_codebooks(memory, clustered_states(5), seed=0)


def test_random_keys_read_the_same_queries():
    states = clustered_states()
    memories = [memory_of(num_keys=4, num_heads=2, top_k=2) for _ in range(2)]
    set_codebooks(memories[0], states, seed=0)
    random_codebooks(memories[1], states, seed=0)
    assert torch.equal(memories[0].query_mean, memories[1].query_mean)
    assert torch.equal(memories[0].query_weight, memories[1].query_weight)
    assert not torch.allclose(memories[0].keys, memories[1].keys, atol=0.1)


def test_random_keys_are_normal_and_depend_on_the_seed_alone():
    keys = []
    for states, seed in ((clustered_states(300), 0), (clustered_states(500), 0), (clustered_states(300), 1)):
        memory = memory_of(num_keys=32, num_heads=4, top_k=2)
        random_codebooks(memory, states, seed)
        keys.append(memory.keys.clone())
    assert torch.equal(keys[0], keys[1])
    assert not torch.equal(keys[0], keys[2])
    assert abs(keys[0].mean()) < 0.1
    assert keys[0].std() == pytest.approx(1, abs=0.1)
