"""Reads of memories in a model: their gradients are autograd's, and masks say what is counted of them.

Also: neither checkpointing, compiling and packing nor a bf16 model change what memories say and learn.
"""

from typing import Any

import torch
from small_models import FAMILIES, OWN_OR_SHARED, SETTINGS, fill, learning_model, logits, random_model, some_tokens
from torch import Tensor

from active_reading.train.adapter import attach_memory, memory_disabled
from active_reading.train.sparse_optimizer import SparseRowOptimizer
from active_reading.train.student import check_packing


def backward(model: Any, ids: Tensor, **masks: Tensor) -> None:
    """A loss of all tokens but padding."""
    mask = masks.setdefault("attention_mask", torch.ones_like(ids))
    output = model(input_ids=ids, **masks).logits[mask.bool()]
    (output * torch.linspace(-1, 1, output.shape[-1])).sum().backward()


@OWN_OR_SHARED
def test_row_gradients_of_a_model_equal_dense_autograd(settings):
    model, ids = learning_model(settings), some_tokens()
    backward(model, ids)
    adapter = model.memory_adapter
    dense = {name: table.values.detach().clone().requires_grad_() for name, table in adapter.tables.items()}

    def dense_forward(memory: Any, values: Tensor) -> Any:
        def forward(x: Tensor) -> Tensor:
            slots, weights = memory.lookup(x.reshape(-1, 32))
            return (weights[..., None] * values[slots]).sum(1).view_as(x)

        return forward

    for layer, name in adapter.names().items():
        adapter.memories[layer].forward = dense_forward(adapter.memories[layer], dense[name])
    backward(model, ids)
    for name, table in adapter.tables.items():
        assert len(table.reads) == len(adapter.memories) / len(adapter.tables)
        assert table.access_counts()[1].sum() == len(table.reads) * 2 * 9 * 2 * 3
        found = table.row_gradients(torch.arange(16))
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, dense[name].grad, rtol=1e-4, atol=1e-4)


@FAMILIES
def test_a_text_behind_another_in_a_packed_row_has_the_logits_that_it_has_alone(family):
    """Two texts that are longer than the sliding windows; where they run on into each other, logits are others."""
    model, ids = learning_model(family=family), some_tokens()
    check_packing(model)
    places = torch.cat([torch.arange(9), torch.arange(9)])[None]
    with torch.no_grad():
        packed = model(input_ids=ids.view(1, 18), position_ids=places, use_cache=False).logits
        running_on = model(input_ids=ids.view(1, 18), use_cache=False).logits
    torch.testing.assert_close(packed.view(2, 9, 64), logits(model, ids), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(running_on[0, 9:], packed[0, 9:], atol=1e-3)


def test_a_disabled_memory_keeps_no_reads():
    model, ids = learning_model(), some_tokens()
    model.model.embed_tokens.weight.requires_grad_()
    with memory_disabled(model):
        backward(model, ids)
    assert all(table.reads == [] for table in model.memory_adapter.tables.values())


def test_padding_of_a_batch_is_not_counted():
    model, ids = learning_model(), some_tokens()
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for table in model.memory_adapter.tables.values():
        assert table.access_counts()[1].sum() == (9 + 4) * SETTINGS.num_heads * SETTINGS.top_k


def test_a_memory_mask_says_which_tokens_choose_slots_and_changes_no_gradient():
    ids, mask = some_tokens(), torch.ones(2, 9)
    mask[1] = 0  # a row of replay
    plain, masked = learning_model(), learning_model()
    backward(plain, ids)
    backward(masked, ids, memory_mask=mask)
    for name, table in masked.memory_adapter.tables.items():
        whole = plain.memory_adapter.tables[name]
        assert table.access_counts()[1].sum() == 9 * SETTINGS.num_heads * SETTINGS.top_k
        read = table.reads[0].slots[:9].flatten().tolist()
        slots, counts = table.access_counts()
        assert counts.tolist() == [read.count(slot) for slot in slots.tolist()]
        assert torch.equal(table.row_gradients(torch.arange(16)), whole.row_gradients(torch.arange(16)))
    assert torch.equal(logits(masked, ids), logits(plain, ids))


def test_the_mask_of_one_pass_is_not_that_of_the_next():
    model, ids = learning_model(), some_tokens()
    backward(model, ids, memory_mask=torch.zeros(2, 9))
    backward(model, ids[:, :5])
    counts = [table.access_counts()[1].sum() for table in model.memory_adapter.tables.values()]
    assert counts == [10 * SETTINGS.num_heads * SETTINGS.top_k] * 2


@OWN_OR_SHARED
def test_gradient_checkpointing_changes_nothing(settings):
    ids, models = some_tokens(), [learning_model(settings) for _ in range(2)]
    models[1].gradient_checkpointing_enable({"use_reentrant": False})
    for model in models:
        # Something below the layers must learn, or nothing is checkpointed: the reads leave a gradient here too.
        model.model.embed_tokens.weight.requires_grad_()
        backward(model.train(), ids, memory_mask=(torch.arange(9) < 6).expand(2, 9))
    for name, table in models[0].memory_adapter.tables.items():
        other = models[1].memory_adapter.tables[name]
        assert len(other.reads) == len(table.reads)
        assert all(map(torch.equal, other.access_counts(), table.access_counts()))
        rows = torch.arange(16)
        torch.testing.assert_close(other.row_gradients(rows), table.row_gradients(rows))
    gradients = [model.model.embed_tokens.weight.grad for model in models]
    torch.testing.assert_close(*gradients)


def test_a_compiled_model_gives_the_same_logits():
    model, ids = learning_model(), some_tokens()
    expected = logits(model, ids)
    # Only the stage that sees the memories: the ones after it take most of a minute.
    found = logits(torch.compile(model, backend="eager"), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with memory_disabled(model):
        assert not torch.allclose(found, logits(model, ids), atol=1e-2), "the memories are read"


def test_a_model_that_is_cast_with_its_memories_reads_as_before():
    """A user who loads an adapter may cast the whole model, its keys too."""
    model, ids = random_model("llama"), some_tokens()
    fill(attach_memory(model, SETTINGS))
    plain = logits(random_model("llama").bfloat16(), ids)
    expected, found = logits(model, ids), logits(model.bfloat16(), ids)
    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() < 0.3 * (plain.float() - expected).norm(), "not the base's"
    assert model.generate(ids, max_new_tokens=3).shape[1] == ids.shape[1] + 3


def test_a_memory_learns_on_a_bf16_model():
    model, ids = random_model("llama").bfloat16().requires_grad_(False), some_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapter = attach_memory(model, SETTINGS.model_copy(update={"top_t": 16}))
    fill(adapter)
    for table in adapter.tables.values():
        table.values.zero_()
    optimizer = SparseRowOptimizer(adapter.tables, adapter.backgrounds, adapter.settings, lr=0.3)
    losses = []
    for _ in range(50):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
        losses.append(output.loss.item())
        output.loss.backward()
        optimizer.step()
    assert output.logits.dtype is torch.bfloat16
    assert all(table.values.dtype is torch.float32 for table in adapter.tables.values())
    assert losses[-1] < losses[0] - 0.4
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
