"""The natural gradient: the factors are what they say, and it disturbs generic text least for what it teaches."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from active_reading.train.adapter_files import pack_reads, together, unpack_reads, without
from active_reading.train.memory import Read, ValueTable
from active_reading.train.natural_gradient import Curvature, curvature, read_products
from active_reading.train.settings import MemorySettings
from active_reading.train.slots import Background
from active_reading.train.sparse_optimizer import NaturalRowOptimizer

SLOTS, HEADS, READS, WIDTH = 12, 2, 4, 5
ROWS = torch.tensor([1, 2, 5, 6, 9])


def background(num_tokens: int = 40, seed: int = 0) -> Background:
    generator = torch.Generator().manual_seed(seed)
    found = Background(torch.zeros(SLOTS), 0)
    slots = torch.stack([torch.randperm(SLOTS, generator=generator)[:READS] for _ in range(num_tokens)])
    weights = torch.randn(num_tokens, HEADS, READS // HEADS, generator=generator)
    found.add_reads(slots, weights.softmax(-1).flatten(1))
    found.gradients = gradient_covariance()
    return found


def spread(found: Background) -> Tensor:
    """(M, N) every token's read weights, zeros included."""
    dense = torch.zeros(len(found.slots), SLOTS)
    for token, (slots, weights) in enumerate(zip(found.slots.tolist(), found.weights.tolist(), strict=True)):
        for slot, weight in zip(slots, weights, strict=True):
            dense[token, slot] += weight
    return dense


def gradient_covariance() -> Tensor:
    gradients = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(3))
    return gradients.T @ gradients / 30


def disturbance(change: Tensor, damping: float) -> float:
    """Twice the change of predictions on generic text, from the dense matrices."""
    reads = spread(background())
    damped_reads = reads.T @ reads / len(reads) + damping * reads.square().sum() / reads.numel() * torch.eye(SLOTS)
    gradients = gradient_covariance()
    damped_gradients = gradients + damping * gradients.diagonal().mean() * torch.eye(WIDTH)
    whole = torch.zeros(SLOTS, WIDTH)
    whole[ROWS] = change
    return float(torch.trace(whole.T @ damped_reads @ whole @ damped_gradients))


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_the_products_of_reads_are_those_of_the_dense_read_weights(monkeypatch, block):
    monkeypatch.setattr("active_reading.train.natural_gradient.BLOCK", block)
    reads = spread(background())[:, ROWS]
    found = read_products((background().slots, background().weights), ROWS)
    torch.testing.assert_close(found, reads.T @ reads)


def test_reads_of_one_slot_by_several_heads_add_up():
    reads = torch.tensor([[5, 5, 2]]), torch.tensor([[0.25, 0.5, 1.0]])
    assert read_products(reads, torch.tensor([5])).item() == pytest.approx(0.75**2)


@pytest.mark.parametrize("damping", [0.01, 1.0])
def test_no_other_change_of_the_rows_teaches_as_much_for_as_little_disturbance(damping):
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(len(ROWS), WIDTH, generator=generator)
    best = curvature(background(), ROWS, HEADS, damping).solve(gradient)
    gain = float((gradient * best).sum())
    assert gain == pytest.approx(disturbance(best, damping), rel=1e-4), "the solution of C X B = G"
    for number in range(50):
        other = gradient if not number else best + 0.3 * torch.randn(best.shape, generator=generator)
        other = other * gain / (gradient * other).sum()  # teaches the same, to first order
        assert disturbance(other, damping) > disturbance(best, damping)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_new_text_counts_by_its_weight(weight):
    new = background(num_tokens=25, seed=4)
    gradient = torch.randn(len(ROWS), WIDTH, generator=torch.Generator().manual_seed(1))
    found = curvature(background(), ROWS, HEADS, 0.1, (new.slots, new.weights), weight).solve(gradient)
    reads, new_reads = spread(background()), spread(new)
    c = reads.T @ reads / 40 + weight * new_reads.T @ new_reads / 25
    c += 0.1 * reads.square().sum() / reads.numel() * torch.eye(SLOTS)
    b = gradient_covariance()
    b += 0.1 * b.diagonal().mean() * torch.eye(WIDTH)
    torch.testing.assert_close(c[ROWS][:, ROWS] @ found @ b, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("protect", "num_generic"), [(0.25, 40), (1.0, 100), (4.0, 40), (25.0, 40)])
def test_what_was_learned_counts_by_its_weight_beside_the_generic_mean_and_the_damping(protect, num_generic):
    learned = background(num_tokens=60, seed=4)
    both = background()
    both.add_reads(learned.slots, learned.weights * protect**0.5)
    gradient = torch.randn(len(ROWS), WIDTH, generator=torch.Generator().manual_seed(1))
    found = curvature(both, ROWS, HEADS, 0.1).solve(gradient)
    generic, new = spread(background()), spread(learned)
    c = (generic.T @ generic + protect * new.T @ new) / num_generic
    c += 0.1 * (generic.square().sum() + new.square().sum()) / 100 / SLOTS * torch.eye(SLOTS)
    b = gradient_covariance()
    b += 0.1 * b.diagonal().mean() * torch.eye(WIDTH)
    torch.testing.assert_close(c[ROWS][:, ROWS] @ found @ b, gradient, rtol=2e-2, atol=1e-2)  # in bf16


def test_what_texts_teach_one_by_one_goes_into_rows_of_their_own_and_not_into_the_one_that_all_read():
    own = torch.tensor([1, 2, 6, 9]).repeat(10)
    new = torch.stack([own, torch.full_like(own, 5)], 1), torch.ones(40, 2)
    even = Background(torch.zeros(SLOTS), 0, gradients=torch.eye(WIDTH))
    even.add_reads(torch.arange(SLOTS)[:, None], torch.full((SLOTS, 1), float(HEADS)))
    gradient = torch.zeros(len(ROWS), WIDTH)
    for direction, row in enumerate((0, 1, 3, 4)):  # each text its own, and row 5, the third, all of them
        gradient[row, direction] = gradient[2, direction] = 1
    without_new, with_new = (
        curvature(even, ROWS, HEADS, 0.1, new, weight).solve(gradient).norm(dim=1) for weight in (0.0, 10.0)
    )
    assert without_new[2] > 1.9 * without_new[[0, 1, 3, 4]].max()
    assert with_new[2] < 0.7 * with_new[[0, 1, 3, 4]].min()


def read_everything(table: ValueTable, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.stack([torch.randperm(SLOTS, generator=generator)[:READS] for _ in range(20)])
    weights, gradients = torch.rand(20, READS, generator=generator), torch.randn(20, WIDTH, generator=generator)
    table.reads.append(Read(slots, weights, gradients, None))


def optimizer(table: ValueTable, of: Curvature, lr: float) -> NaturalRowOptimizer:
    settings = MemorySettings(layers=[0], num_keys=4, top_k=2, top_t=5)
    return NaturalRowOptimizer({"0": table}, {"0": background()}, settings, lr, {"0": of})


def test_a_step_has_the_size_of_the_learning_rate_and_moves_its_rows_alone():
    table = ValueTable(SLOTS, WIDTH)
    of = curvature(background(), ROWS, HEADS, 0.1)
    steps = optimizer(table, of, lr=0.3)
    read_everything(table, seed=0)
    expected = of.solve(table.row_gradients(ROWS))
    steps.step()
    moved = table.values[ROWS]
    assert disturbance(moved, 0.1) == pytest.approx(0.3**2, rel=1e-3)
    torch.testing.assert_close(moved / moved.norm(), -expected / expected.norm())
    read_everything(table, seed=1)
    steps.step()
    others = torch.ones(SLOTS, dtype=torch.bool)
    others[ROWS] = False
    assert not table.values[others].any()
    assert steps.touched_rows()["0"].tolist() == ROWS.tolist()


def test_the_state_of_another_optimizer_is_gone_on_from():
    of = curvature(background(), ROWS, HEADS, 0.1)
    one, other = ValueTable(SLOTS, WIDTH), ValueTable(SLOTS, WIDTH)
    first, second = optimizer(one, of, 0.3), optimizer(other, of, 0.3)
    for seed in range(3):
        read_everything(one, seed)
        first.step()
    other.values.copy_(one.values)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for table, steps in ((one, first), (other, second)):
        read_everything(table, 7)
        steps.step()
    assert torch.equal(one.values, other.values)


def test_a_memory_whose_reads_are_not_known_is_refused():
    with pytest.raises(ValueError, match="not known how generic text reads"):
        curvature(Background(torch.zeros(SLOTS), 3), ROWS, HEADS, 0.1)


def test_a_memory_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="no gradient"):
        curvature(replace(background(), gradients=torch.zeros(WIDTH, WIDTH)), ROWS, HEADS, 0.1)


def test_a_curvature_that_cannot_be_inverted_says_what_to_change():
    always_together = torch.tensor([[5, 6]] * 40), torch.ones(40, 2)
    with pytest.raises(
        ValueError, match="raise train.memory.damping=1e-30, or lower train.memory.new_text_weight=1"
    ):
        curvature(background(num_tokens=1), ROWS, HEADS, 1e-30, always_together, 1e30)


def test_an_inverse_beyond_single_precision_is_refused_with_the_same_words():
    found = Background(torch.zeros(SLOTS), 0, gradients=torch.eye(WIDTH))
    # The other rows have the damping alone.
    found.add_reads(torch.tensor([[1], [2]]), torch.full((2, 1), float(HEADS)))
    assert curvature(found, ROWS, HEADS, 1e-35).read_inverse.isfinite().all()
    with pytest.raises(ValueError, match=r"too uneven to be inverted: raise train\.memory\.damping=1e-40"):
        curvature(found, ROWS, HEADS, 1e-40)


@pytest.mark.parametrize(("num_slots", "width"), [(2**16, 2 * READS), (2**20, 3 * READS)])
def test_packed_reads_hold_every_bit_in_one_order(num_slots, width):
    found = background()
    found.slots[:2] = num_slots - 1 - found.slots[:2]
    packed = pack_reads(found.slots, found.weights, num_slots)
    assert packed.shape[1] == width
    order = torch.randperm(len(found.slots), generator=torch.Generator().manual_seed(5))
    assert torch.equal(packed, pack_reads(found.slots[order], found.weights[order], num_slots))
    slots, weights = unpack_reads(packed, num_slots)
    none = torch.zeros(0, 0)
    tokens = lambda s, w: sorted(zip(s.tolist(), w.tolist(), strict=True))  # noqa: E731
    assert tokens(slots, weights) == tokens(found.slots, found.weights)
    assert [
        len(part) for part in unpack_reads(pack_reads(*unpack_reads(none, num_slots), num_slots), num_slots)
    ] == [0, 0]


def test_what_is_taken_out_of_reads_is_what_was_put_in():
    some, more = torch.tensor([[3, 1], [0, 2], [3, 1]]), torch.tensor([[3, 1], [9, 9]])
    both = together(some, more)
    assert both.tolist() == [[0, 2], [3, 1], [3, 1], [3, 1], [9, 9]]
    assert torch.equal(without(both, more), together(some))
    assert torch.equal(without(both, torch.zeros(0, 2)), both)
    assert len(without(more, both)) == 0
