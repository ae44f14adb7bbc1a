"""Product-key memory against dense references that score, read and differentiate every slot."""

import pytest
import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory, ValueTable, _ReadValues

WIDTH, KEYS, HEADS, TOP_K, KEY_WIDTH = 12, 9, 3, 4, 5


def random_memory(seed: int = 0, table: ValueTable | None = None) -> ProductKeyMemory:
    """A memory of random keys, queries and values, with a table of its own unless it shares one."""
    generator = torch.Generator().manual_seed(seed)
    memory = ProductKeyMemory(table or ValueTable(KEYS**2, WIDTH), KEYS, HEADS, TOP_K, KEY_WIDTH)
    with torch.no_grad():
        for tensor in (memory.query_mean, memory.query_weight, memory.keys, memory.table.values):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return memory


def dense_counts(table: ValueTable) -> list[int]:
    """How often each of all slots was read, from what the table says of those that were."""
    counts = [0] * table.num_slots
    for slot, count in zip(*map(Tensor.tolist, table.access_counts()), strict=True):
        counts[slot] = count
    return counts


def random_input(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense_read(memory: ProductKeyMemory, x: Tensor, values: Tensor) -> Tensor:
    """(M, D): the same slots read by plain indexing, so that autograd gives the table's dense gradient."""
    slots, weights = memory.lookup(x)
    return (weights[..., None] * values[slots]).sum(1)


def score_every_slot(memory: ProductKeyMemory, x: Tensor) -> Tensor:
    """(M, H, N): minus half the squared distance of each query to each slot's pair of keys, in float64."""
    queries = memory.queries(x).double()
    keys = memory.keys.double()
    scores = torch.empty(len(x), HEADS, KEYS * KEYS, dtype=torch.float64)
    for head in range(HEADS):
        for row in range(KEYS):
            for column in range(KEYS):
                first = (queries[:, head, 0] - keys[head, 0, row]).square().sum(-1)
                second = (queries[:, head, 1] - keys[head, 1, column]).square().sum(-1)
                scores[:, head, row * KEYS + column] = -0.5 * (first + second)
    return scores


def test_lookup_finds_the_best_of_all_slots_in_order():
    memory, x = random_memory(), random_input(50, WIDTH)
    slots, weights = memory.lookup(x)
    top, expected = score_every_slot(memory, x).topk(TOP_K, dim=-1)
    assert torch.equal(slots.view(50, HEADS, TOP_K), expected)
    softmax = torch.softmax(top / KEY_WIDTH**0.5, dim=-1)
    torch.testing.assert_close(weights.view(50, HEADS, TOP_K).double(), softmax, rtol=1e-4, atol=1e-5)


def test_weights_of_each_head_sum_to_one_and_fall():
    _, weights = random_memory().lookup(random_input(20, WIDTH))
    weights = weights.view(20, HEADS, TOP_K)
    torch.testing.assert_close(weights.sum(-1), torch.ones(20, HEADS))
    assert (weights.diff(dim=-1) <= 0).all()


def test_queries_are_centred_and_projected_head_by_head():
    memory, x = random_memory(), random_input(4, WIDTH)
    projected = (x - memory.query_mean) @ memory.query_weight
    head, half = 2, 1
    start = (head * 2 + half) * KEY_WIDTH
    torch.testing.assert_close(memory.queries(x)[:, head, half], projected[:, start : start + KEY_WIDTH])


def test_output_is_the_weighted_sum_of_the_rows_that_are_read():
    memory, x = random_memory(), random_input(2, 7, WIDTH)
    expected = dense_read(memory, x.view(-1, WIDTH), memory.table.values.detach()).view(2, 7, WIDTH)
    torch.testing.assert_close(memory(x), expected)


def test_a_memory_of_zeros_adds_nothing():
    memory = random_memory()
    torch.nn.init.zeros_(memory.table.values)
    assert torch.count_nonzero(memory(random_input(2, 5, WIDTH))) == 0


def test_row_gradients_equal_dense_autograd_over_two_backward_passes():
    memory = random_memory()
    dense = memory.table.values.detach().clone().requires_grad_()
    for seed in (1, 2):
        # One hidden state three times: rows that are read more than once must add up.
        x = random_input(2, 6, WIDTH, seed=seed)
        x[0, 1] = x[0, 0]
        x[1, 3] = x[0, 0]
        target = random_input(2, 6, WIDTH, seed=seed + 10)
        (memory(x) * target).sum().backward()
        (dense_read(memory, x.view(-1, WIDTH), dense) * target.view(-1, WIDTH)).sum().backward()
    assert memory.table.values.grad is None
    assert len(memory.table.reads) == 2
    every_row = torch.arange(memory.table.num_slots)
    torch.testing.assert_close(memory.table.row_gradients(every_row), dense.grad, rtol=0, atol=1e-6)
    some = torch.tensor([70, 3, 41, 8])
    torch.testing.assert_close(memory.table.row_gradients(some), dense.grad[some], rtol=0, atol=1e-6)
    assert dense.grad.abs().sum(1).count_nonzero() > TOP_K


def test_row_gradients_of_rows_that_nothing_read_are_zero():
    memory = random_memory()
    memory(random_input(1, 1, WIDTH)).sum().backward()
    read = memory.table.reads[0].slots.flatten().unique().tolist()
    unread = torch.tensor([slot for slot in range(memory.table.num_slots) if slot not in read])
    assert memory.table.row_gradients(unread).abs().max() == 0


def test_gradient_of_the_input_equals_the_dense_reference():
    memory = random_memory()
    ours = random_input(3, 4, WIDTH).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    target = random_input(3, 4, WIDTH, seed=9)
    (memory(ours) * target).sum().backward()
    (
        dense_read(memory, theirs.view(-1, WIDTH), memory.table.values.detach()) * target.view(-1, WIDTH)
    ).sum().backward()
    assert theirs.grad.abs().max() > 0.1
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_weights_equals_finite_differences():
    memory = random_memory().double()
    x = random_input(3, WIDTH).double()
    slots, weights = memory.lookup(x)

    def read(given: Tensor) -> Tensor:
        return _ReadValues.apply(torch.zeros(()), given, slots, None, memory.table)

    assert torch.autograd.gradcheck(read, weights.detach().requires_grad_())


def test_padding_is_left_out_of_the_access_counts_and_changes_no_gradient():
    memory = random_memory()
    x = random_input(2, 4, WIDTH)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    memory.token_mask = mask
    target = random_input(2, 4, WIDTH, seed=5) * mask[..., None]  # the loss does not see padding
    (memory(x) * target).sum().backward()

    real = x[mask.bool()]
    slots, _ = memory.lookup(real)
    counts = [0] * memory.table.num_slots
    for slot in slots.flatten().tolist():
        counts[slot] += 1
    assert dense_counts(memory.table) == counts
    assert sum(counts) == 6 * HEADS * TOP_K

    dense = memory.table.values.detach().clone().requires_grad_()
    (dense_read(memory, real, dense) * target[mask.bool()]).sum().backward()
    rows = torch.arange(memory.table.num_slots)
    torch.testing.assert_close(memory.table.row_gradients(rows), dense.grad, rtol=0, atol=1e-6)


def test_access_counts_add_up_over_backward_passes_and_count_everything_without_a_mask():
    memory = random_memory()
    for seed in (1, 2):
        memory(random_input(2, 3, WIDTH, seed=seed)).sum().backward()
    slots, counts = memory.table.access_counts()
    assert counts.sum() == 2 * 6 * HEADS * TOP_K
    assert slots.tolist() == sorted(set(slots.tolist())), "each slot once, in order"


def test_tokens_that_do_not_count_choose_no_slots_and_still_teach_those_that_are_chosen():
    """Replay: its reads are left out of the counts, and its gradients are not."""
    memory, x, target = random_memory(), random_input(2, 4, WIDTH), random_input(2, 4, WIDTH, seed=5)
    memory.token_mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    (memory(x) * target).sum().backward()
    read = memory.lookup(x[0])[0].flatten().tolist()
    assert dense_counts(memory.table) == [read.count(slot) for slot in range(memory.table.num_slots)]

    dense = memory.table.values.detach().clone().requires_grad_()
    (dense_read(memory, x.view(-1, WIDTH), dense) * target.view(-1, WIDTH)).sum().backward()
    rows = torch.arange(memory.table.num_slots)
    torch.testing.assert_close(memory.table.row_gradients(rows), dense.grad, rtol=0, atol=1e-6)
    alone = torch.zeros_like(dense, requires_grad=True)
    (dense_read(memory, x[0], alone) * target[0]).sum().backward()
    assert not torch.allclose(dense.grad, alone.grad, atol=0.1), "the tokens that do not count change gradients"


def test_a_step_without_reads_counts_nothing():
    slots, counts = random_memory().table.access_counts()
    assert slots.tolist() == counts.tolist() == []
    assert slots.dtype is torch.int64


def test_two_memories_of_one_table_add_up_their_counts_and_gradients():
    """The second reads what the first wrote, as memories in different layers do."""
    first = random_memory(seed=0)
    second = random_memory(seed=3, table=first.table)
    dense = first.table.values.detach().clone().requires_grad_()
    x, target = random_input(2, 6, WIDTH), random_input(2, 6, WIDTH, seed=11)
    middle = x + first(x)
    ((middle + second(middle)) * target).sum().backward()

    x, target = x.view(-1, WIDTH), target.view(-1, WIDTH)
    middle = x + dense_read(first, x, dense)
    ((middle + dense_read(second, middle, dense)) * target).sum().backward()
    rows = torch.arange(first.table.num_slots)
    torch.testing.assert_close(first.table.row_gradients(rows), dense.grad, rtol=1e-5, atol=1e-5)
    read = [*first.lookup(x)[0].flatten().tolist(), *second.lookup(middle)[0].flatten().tolist()]
    assert dense_counts(first.table) == [read.count(slot) for slot in range(first.table.num_slots)]
    assert sum(dense_counts(first.table)) == 2 * 12 * HEADS * TOP_K


def test_a_table_that_does_not_learn_keeps_no_reads_and_passes_gradients_on():
    learning, still = random_memory(), random_memory()
    still.table.learning = False
    inputs = [random_input(2, 5, WIDTH).requires_grad_() for _ in range(2)]
    for memory, x in zip((learning, still), inputs, strict=True):
        memory(x).square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    assert (len(learning.table.reads), len(still.table.reads)) == (1, 0)
    assert not still(random_input(2, 5, WIDTH)).requires_grad, "nothing below is kept for a backward pass"


def test_reading_without_gradients_leaves_nothing_behind():
    memory = random_memory()
    with torch.no_grad():
        memory(random_input(1, 3, WIDTH))
    assert memory.table.reads == []


def test_a_mask_longer_than_the_input_is_that_of_its_last_tokens():
    """With a key-value cache the mask covers the past too."""
    memory = random_memory()
    memory.token_mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])
    assert memory.flat_mask(2).tolist() == [True, False, True, True]


def test_output_has_the_type_of_the_input_while_the_read_is_exact():
    memory, x = random_memory(), random_input(1, 3, WIDTH).bfloat16()
    expected = dense_read(memory, x.float().view(-1, WIDTH), memory.table.values.detach())
    assert memory(x).dtype is torch.bfloat16
    torch.testing.assert_close(memory(x).view(-1, WIDTH), expected.bfloat16())


def test_more_slots_per_head_than_keys_are_refused():
    with pytest.raises(ValueError, match="top_k=5 must not exceed memory.num_keys=4"):
        ProductKeyMemory(ValueTable(16, WIDTH), num_keys=4, num_heads=1, top_k=5, key_width=2)


def test_a_table_of_another_size_than_the_keys_address_is_refused():
    with pytest.raises(ValueError, match="4 keys per half address 16 slots, not 15"):
        ProductKeyMemory(ValueTable(15, WIDTH), num_keys=4, num_heads=1, top_k=2, key_width=2)
