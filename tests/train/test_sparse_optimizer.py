"""The sparse row optimizer: which rows move, how far (by hand), and that moving them teaches something."""

from copy import deepcopy
from math import log
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory, Read, ValueTable
from active_reading.train.settings import MemorySettings
from active_reading.train.slots import Background
from active_reading.train.sparse_optimizer import EPSILON, RMS_DECAY, SparseRowOptimizer

WIDTH, SLOTS = 8, 64


def random_memory(seed: int = 0, table: ValueTable | None = None) -> ProductKeyMemory:
    generator = torch.Generator().manual_seed(seed)
    memory = ProductKeyMemory(table or ValueTable(SLOTS, WIDTH), num_keys=8, num_heads=2, top_k=4, key_width=4)
    with torch.no_grad():
        for tensor in (memory.query_weight, memory.keys, memory.table.values):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return memory


def optimizer_for(
    *memories: ProductKeyMemory, lr: float = 0.1, top_t: int = 3, update_rule: str = "row", **how: Any
) -> SparseRowOptimizer:
    """Of generic text's five batches, slot i is read by i modulo 5."""
    tables = {str(place): memory.table for place, memory in enumerate(memories)}
    backgrounds = {name: Background(torch.arange(SLOTS) % 5.0, 5) for name in tables}
    learning = MemorySettings(
        layers=[0], num_keys=8, num_heads=2, top_k=4, top_t=top_t, update_rule=update_rule, **how
    )
    return SparseRowOptimizer(tables, backgrounds, learning, lr)


def some_input(seed: int = 1) -> Tensor:
    return torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def backward(memory: ProductKeyMemory, x: Tensor) -> None:
    memory(x).square().sum().backward()


def dense_gradient(memory: ProductKeyMemory, x: Tensor) -> Tensor:
    values = memory.table.values.detach().clone().requires_grad_()
    slots, weights = memory.lookup(x.view(-1, WIDTH))
    (weights[..., None] * values[slots]).sum(1).square().sum().backward()
    return values.grad


def best_rows(memories: list[ProductKeyMemory], x: Tensor, top_t: int) -> set[int]:
    """The TF-IDF ranking of the paper in plain Python."""
    read = [slot for memory in memories for slot in memory.lookup(x.reshape(-1, WIDTH))[0].flatten().tolist()]
    scores = {slot: read.count(slot) / len(read) * log(6 / (slot % 5 + 1)) for slot in set(read)}
    return set(sorted(scores, key=lambda slot: scores[slot], reverse=True)[:top_t])


def test_only_the_best_rows_move_and_all_others_are_bit_identical():
    memory, x = random_memory(), some_input()
    before = memory.table.values.detach().clone()
    optimizer = optimizer_for(memory, top_t=5)
    backward(memory, x)
    optimizer.step()
    moved = (memory.table.values != before).any(1).nonzero().flatten().tolist()
    assert set(moved) == best_rows([memory], x, 5)


def test_the_first_step_is_the_learning_rate_times_the_gradient_over_its_rms():
    memory, x = random_memory(), some_input()
    before, gradient = memory.table.values.detach().clone(), dense_gradient(memory, x)
    optimizer = optimizer_for(memory, lr=0.1)
    backward(memory, x)
    optimizer.step()
    for row in best_rows([memory], x, 3):
        rms = gradient[row].square().mean().sqrt()  # bias correction: the first average is the gradient's own
        torch.testing.assert_close(memory.table.values[row], before[row] - 0.1 * gradient[row] / (rms + EPSILON))
        step = memory.table.values[row].detach() - before[row]
        assert float(step.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)


def test_the_second_step_divides_by_the_corrected_running_rms():
    memory, x = random_memory(), some_input()
    optimizer = optimizer_for(memory, lr=0.1, top_t=1)
    squares = []
    for _ in range(2):
        before, gradient = memory.table.values.detach().clone(), dense_gradient(memory, x)
        backward(memory, x)
        optimizer.step()
        (row,) = best_rows([memory], x, 1)
        squares.append(float(gradient[row].square().mean()))
    average = RMS_DECAY * (1 - RMS_DECAY) * squares[0] + (1 - RMS_DECAY) * squares[1]
    rms = (average / (1 - RMS_DECAY**2)) ** 0.5
    torch.testing.assert_close(memory.table.values[row], before[row] - 0.1 * gradient[row] / rms)
    assert squares[0] != pytest.approx(squares[1], rel=1e-3)


def test_two_backward_passes_before_a_step_count_as_one_batch():
    whole, parts = random_memory(), random_memory()
    first, second = some_input(1), some_input(2)
    optimizers = optimizer_for(whole), optimizer_for(parts)
    backward(whole, torch.cat([first, second]))
    backward(parts, first)
    backward(parts, second)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(parts.table.values, whole.table.values)


def test_the_loss_falls_when_a_memory_learns_targets():
    memory, x = random_memory(), some_input()
    target = some_input(5)
    optimizer = optimizer_for(memory, lr=0.1, top_t=32)
    losses = []
    for _ in range(100):
        loss = (memory(x) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_a_step_clears_the_reads_and_a_step_without_reads_does_nothing():
    memory = random_memory()
    optimizer = optimizer_for(memory)
    backward(memory, some_input())
    optimizer.step()
    assert memory.table.reads == []
    after = memory.table.values.detach().clone()
    optimizer.step()
    assert torch.equal(memory.table.values, after)


def test_zero_grad_forgets_reads_that_no_step_used():
    memory = random_memory()
    before = memory.table.values.detach().clone()
    optimizer = optimizer_for(memory)
    backward(memory, some_input())
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(memory.table.values, before)


def test_a_learning_rate_of_zero_moves_nothing_and_schedulers_set_the_rate():
    memory, x = random_memory(), some_input()
    before = memory.table.values.detach().clone()
    optimizer = optimizer_for(memory, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    backward(memory, x)
    optimizer.step()
    assert torch.equal(memory.table.values, before)


def test_every_memory_moves_its_own_rows_and_touched_rows_are_counted():
    first, second = random_memory(0), random_memory(1)
    optimizer = optimizer_for(first, second, top_t=4)
    before = [memory.table.values.detach().clone() for memory in (first, second)]
    for seed in (1, 2, 3):
        backward(first, some_input(seed))
        backward(second, some_input(seed + 10))
        optimizer.step()
    touched = optimizer.touched_rows()
    assert list(touched) == ["0", "1"]
    for memory, old, rows in zip((first, second), before, touched.values(), strict=True):
        assert torch.equal(rows, (memory.table.values != old).any(1).nonzero().flatten())
        assert len(rows) > 4, "the three batches read different slots"


@pytest.mark.parametrize("update_rule", ["row", "table"])
@pytest.mark.parametrize("slot_score", ["tf_idf", "random"])
def test_an_optimizer_that_gets_the_state_of_another_goes_on_as_that_one_would(update_rule, slot_score):
    memory = random_memory()
    optimizer = optimizer_for(memory, update_rule=update_rule, slot_score=slot_score)
    for seed in (1, 2):
        backward(memory, some_input(seed))
        optimizer.step()
    copied = random_memory()
    copied.table.load_state_dict(memory.table.state_dict())
    other = optimizer_for(copied, update_rule=update_rule, slot_score=slot_score)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    assert torch.equal(other.touched_rows()["0"], optimizer.touched_rows()["0"])
    assert len(other.touched_rows()["0"]) > 0
    for one, its in ((memory, optimizer), (copied, other)):
        for seed in (3, 1):
            backward(one, some_input(seed))
            its.step()
    assert torch.equal(copied.table.values, memory.table.values)
    assert torch.equal(other.touched_rows()["0"], optimizer.touched_rows()["0"])


def test_a_table_of_two_memories_moves_by_the_sum_of_their_gradients():
    first = random_memory(0)
    second, x = random_memory(1, first.table), some_input()
    before = first.table.values.detach().clone()
    gradient = dense_gradient(first, x) + dense_gradient(second, x)
    optimizer = optimizer_for(first, top_t=6)
    backward(first, x)
    backward(second, x)
    optimizer.step()
    best = best_rows([first, second], x, 6)
    assert (first.table.values != before).any(1).nonzero().flatten().tolist() == sorted(best)
    for row in best:
        step = 0.1 * gradient[row] / (gradient[row].square().mean().sqrt() + EPSILON)
        torch.testing.assert_close(first.table.values[row], before[row] - step, rtol=1e-4, atol=1e-5)


def test_the_norm_of_a_table_divides_all_its_rows_by_one_rms():
    memory, x = random_memory(), some_input()
    optimizer = optimizer_for(memory, update_rule="table", top_t=4)
    average = 0.0
    for step in (1, 2):
        before, gradient = memory.table.values.detach().clone(), dense_gradient(memory, x)
        backward(memory, x)
        optimizer.step()
        rows = sorted(best_rows([memory], x, 4))
        average = RMS_DECAY * average + (1 - RMS_DECAY) * float(gradient[rows].square().mean())
        rms = (average / (1 - RMS_DECAY**step)) ** 0.5
        torch.testing.assert_close(memory.table.values[rows], before[rows] - 0.1 * gradient[rows] / rms)
        x = some_input(2)
    assert gradient[rows].square().mean(1).max() > 2 * gradient[rows].square().mean(1).min()


def test_the_score_all_moves_every_row_that_is_read_however_many():
    memory, x = random_memory(), some_input()
    before = memory.table.values.detach().clone()
    optimizer = optimizer_for(memory, slot_score="all", top_t=1)
    backward(memory, x)
    optimizer.step()
    read = memory.lookup(x.view(-1, WIDTH))[0].unique()
    assert torch.equal((memory.table.values != before).any(1).nonzero().flatten(), read)
    assert len(read) > 10


def test_the_score_tf_moves_the_rows_that_are_read_most():
    memory, x = random_memory(), some_input()
    before = memory.table.values.detach().clone()
    optimizer = optimizer_for(memory, slot_score="tf", top_t=3)
    backward(memory, x)
    optimizer.step()
    read = memory.lookup(x.view(-1, WIDTH))[0].flatten().tolist()
    moved = (memory.table.values != before).any(1).nonzero().flatten().tolist()
    assert len(moved) == 3
    assert sorted(map(read.count, moved)) == sorted(map(read.count, set(read)))[-3:]


def test_random_rows_are_of_those_read_and_others_with_another_seed():
    moved = []
    for seed in (0, 0, 1):
        memory, x = random_memory(), some_input()
        before = memory.table.values.detach().clone()
        optimizer = optimizer_for(memory, slot_score="random", top_t=8)
        tables, backgrounds = optimizer.tables, optimizer.backgrounds
        optimizer = SparseRowOptimizer(tables, backgrounds, optimizer.settings, lr=0.1, seed=seed)
        backward(memory, x)
        optimizer.step()
        moved.append((memory.table.values != before).any(1).nonzero().flatten().tolist())
    assert moved[0] == moved[1] != moved[2]
    assert {len(rows) for rows in moved} == {8}
    assert set(moved[0]) <= set(memory.lookup(x.view(-1, WIDTH))[0].flatten().tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 3, 8])), min_size=1, max_size=30),
    st.integers(min_value=1, max_value=40),
    st.sampled_from(["tf_idf", "kl", "tf"]),
)
def test_no_unread_row_moves_and_read_ones_do_up_to_the_limit(slots, top_t, slot_score):
    """Each slot is given by how often the step reads it and how many of eight background batches did."""
    table = ValueTable(SLOTS, WIDTH)
    read = torch.tensor([slot for slot, (count, _) in enumerate(slots) for _ in range(count)]).long()[:, None]
    table.reads.append(Read(read, torch.ones(read.shape), torch.ones(len(read), WIDTH), None))
    background = Background(torch.zeros(SLOTS), 8)
    background.counts[: len(slots)] = torch.tensor([float(known) for _, known in slots])
    how = MemorySettings(layers=[0], num_keys=8, top_k=4, top_t=top_t, slot_score=slot_score)
    SparseRowOptimizer({"0": table}, {"0": background}, how, lr=0.1).step()
    moved = table.values.any(1).nonzero().flatten().tolist()
    assert set(moved) <= set(read.flatten().tolist())
    assert len(moved) == min(top_t, len(read.unique()))
    if slot_score == "tf_idf":
        scores = {slot: count * log(9 / (known + 1)) for slot, (count, known) in enumerate(slots) if count}
        left = [score for slot, score in scores.items() if slot not in moved]
        assert not moved or min(scores[slot] for slot in moved) >= max(left, default=0) - 1e-6


def test_reads_that_do_not_count_choose_no_row_and_move_those_that_are_chosen():
    """Replay next to new text: the rows are those of the new text, the gradient is of both."""
    memory, x = random_memory(), some_input()
    before, gradient = memory.table.values.detach().clone(), dense_gradient(memory, x)
    memory.token_mask = torch.tensor([[1] * 6, [0] * 6])
    optimizer = optimizer_for(memory, top_t=4)
    backward(memory, x)
    optimizer.step()
    best = best_rows([memory], x[:1], 4)
    assert (memory.table.values != before).any(1).nonzero().flatten().tolist() == sorted(best)
    for row in best:
        step = 0.1 * gradient[row] / (gradient[row].square().mean().sqrt() + EPSILON)
        torch.testing.assert_close(memory.table.values[row], before[row] - step, rtol=1e-4, atol=1e-5)
    assert set(best_rows([memory], x, 4)) != set(best)


def test_a_step_of_replay_alone_moves_nothing():
    memory = random_memory()
    before = memory.table.values.detach().clone()
    memory.token_mask = torch.zeros(2, 6)
    optimizer = optimizer_for(memory)
    backward(memory, some_input())
    optimizer.step()
    assert torch.equal(memory.table.values, before)
    assert memory.table.reads == []


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="no closure"):
        optimizer_for(random_memory()).step(lambda: 0.0)
