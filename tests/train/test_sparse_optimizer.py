"""The sparse row optimizer: which rows move, how far (by hand), and that moving them teaches something."""

from math import log

import pytest
import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory
from active_reading.train.sparse_optimizer import EPSILON, RMS_DECAY, SparseRowOptimizer

WIDTH = 8


def random_memory(seed: int = 0) -> ProductKeyMemory:
    generator = torch.Generator().manual_seed(seed)
    memory = ProductKeyMemory(WIDTH, num_keys=8, num_heads=2, top_k=4, key_width=4)
    with torch.no_grad():
        for tensor in (memory.query_weight, memory.keys, memory.values):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return memory


def optimizer_for(*memories: ProductKeyMemory, lr: float = 0.1, top_t: int = 3) -> SparseRowOptimizer:
    counts = {layer: torch.arange(memory.num_slots) % 5 for layer, memory in enumerate(memories)}
    return SparseRowOptimizer(dict(enumerate(memories)), counts, num_background_batches=5, lr=lr, top_t=top_t)


def some_input(seed: int = 1) -> Tensor:
    return torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def backward(memory: ProductKeyMemory, x: Tensor) -> None:
    memory(x).square().sum().backward()


def dense_gradient(memory: ProductKeyMemory, x: Tensor) -> Tensor:
    values = memory.values.detach().clone().requires_grad_()
    slots, weights = memory.lookup(x.view(-1, WIDTH))
    (weights[..., None] * values[slots]).sum(1).square().sum().backward()
    return values.grad


def best_rows(memory: ProductKeyMemory, x: Tensor, top_t: int) -> set[int]:
    """The TF-IDF ranking of the paper in plain Python."""
    read = memory.lookup(x.view(-1, WIDTH))[0].flatten().tolist()
    scores = {slot: read.count(slot) / len(read) * log(6 / (slot % 5 + 1)) for slot in set(read)}
    return set(sorted(scores, key=lambda slot: scores[slot], reverse=True)[:top_t])


def test_only_the_best_rows_move_and_all_others_are_bit_identical():
    memory, x = random_memory(), some_input()
    before = memory.values.detach().clone()
    optimizer = optimizer_for(memory, top_t=5)
    backward(memory, x)
    optimizer.step()
    moved = (memory.values != before).any(1).nonzero().flatten().tolist()
    assert set(moved) == best_rows(memory, x, 5)


def test_the_first_step_is_the_learning_rate_times_the_gradient_over_its_rms():
    memory, x = random_memory(), some_input()
    before, gradient = memory.values.detach().clone(), dense_gradient(memory, x)
    optimizer = optimizer_for(memory, lr=0.1)
    backward(memory, x)
    optimizer.step()
    for row in best_rows(memory, x, 3):
        rms = gradient[row].square().mean().sqrt()  # bias correction: the first average is the gradient's own
        torch.testing.assert_close(memory.values[row], before[row] - 0.1 * gradient[row] / (rms + EPSILON))
        step = memory.values[row].detach() - before[row]
        assert float(step.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)


def test_the_second_step_divides_by_the_corrected_running_rms():
    memory, x = random_memory(), some_input()
    optimizer = optimizer_for(memory, lr=0.1, top_t=1)
    squares = []
    for _ in range(2):
        before, gradient = memory.values.detach().clone(), dense_gradient(memory, x)
        backward(memory, x)
        optimizer.step()
        (row,) = best_rows(memory, x, 1)
        squares.append(float(gradient[row].square().mean()))
    average = RMS_DECAY * (1 - RMS_DECAY) * squares[0] + (1 - RMS_DECAY) * squares[1]
    rms = (average / (1 - RMS_DECAY**2)) ** 0.5
    torch.testing.assert_close(memory.values[row], before[row] - 0.1 * gradient[row] / rms)
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
    torch.testing.assert_close(parts.values, whole.values)


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
    assert memory.reads == []
    after = memory.values.detach().clone()
    optimizer.step()
    assert torch.equal(memory.values, after)


def test_zero_grad_forgets_reads_that_no_step_used():
    memory = random_memory()
    before = memory.values.detach().clone()
    optimizer = optimizer_for(memory)
    backward(memory, some_input())
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(memory.values, before)


def test_a_learning_rate_of_zero_moves_nothing_and_schedulers_set_the_rate():
    memory, x = random_memory(), some_input()
    before = memory.values.detach().clone()
    optimizer = optimizer_for(memory, lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    backward(memory, x)
    optimizer.step()
    assert torch.equal(memory.values, before)


def test_every_memory_moves_its_own_rows_and_touched_rows_are_counted():
    first, second = random_memory(0), random_memory(1)
    optimizer = optimizer_for(first, second, top_t=4)
    before = [memory.values.detach().clone() for memory in (first, second)]
    for seed in (1, 2, 3):
        backward(first, some_input(seed))
        backward(second, some_input(seed + 10))
        optimizer.step()
    moved = [int((memory.values != old).any(1).sum()) for memory, old in zip((first, second), before, strict=True)]
    assert optimizer.touched_rows() == dict(enumerate(moved))
    assert min(moved) > 4, "the three batches read different slots"


def test_its_state_survives_a_round_trip():
    memory, x = random_memory(), some_input()
    optimizer = optimizer_for(memory)
    backward(memory, x)
    optimizer.step()
    other = optimizer_for(memory)
    other.load_state_dict(optimizer.state_dict())
    assert other.touched_rows() == optimizer.touched_rows() != {0: 0}


def test_a_closure_is_refused():
    with pytest.raises(ValueError, match="no closure"):
        optimizer_for(random_memory()).step(lambda: 0.0)
