"""The objective by hand and against Hugging Face's own; the base's logits come back whatever was learned."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from active_reading.train.adapter import attach_memory
from active_reading.train.batches import IGNORED, Batch, Sequence, collate
from active_reading.train.load import load_model
from active_reading.train.objectives import base_logits_of, kl_to_base, next_token_loss
from active_reading.train.settings import MemorySettings

EACH_METHOD = pytest.mark.parametrize("method", ["full", "lora", "memory"])


def some_batch() -> dict[str, Tensor]:
    """Two texts, of which the second is padded."""
    ids = torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def labels_of(batch: dict[str, Tensor]) -> Tensor:
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)


def model_to_train(folder: Path, method: str) -> Any:
    """A model as the trainer makes it for a method, before any step."""
    torch.manual_seed(0)
    model = load_model(folder)
    if method == "memory":
        adapter = attach_memory(
            model.requires_grad_(False), MemorySettings(layers=[1], num_keys=8, top_k=4, top_t=8)
        )
        for tensor in (adapter.memories[1].query_weight, adapter.memories[1].keys):
            tensor.normal_(generator=torch.Generator().manual_seed(1))
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    return model.train()


def teach(model: Any, method: str) -> None:
    """Change what the method learns, by much."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        if method == "memory":
            model.memory_adapter.tables["1"].values.normal_(generator=generator)
        for parameter in model.parameters():
            if method != "memory" and parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_the_loss_of_a_model_is_hugging_faces_own(tiny_model):
    model, batch = load_model(tiny_model), some_batch()
    labels = labels_of(batch)
    with torch.no_grad():
        output = model(**batch, labels=labels)
    num_targets = 19 + 11
    torch.testing.assert_close(next_token_loss(output.logits, labels, num_targets), output.loss)


def test_the_next_token_loss_by_hand():
    """Two tokens of probability 1/4 and 3/4; the last has no next, and a label is left out."""
    logits = torch.log(torch.tensor([[[3.0, 1.0], [1.0, 3.0], [5.0, 1.0], [1.0, 9.0]]]))
    labels = torch.tensor([[0, 1, 1, IGNORED]])
    expected = -(math.log(0.25) + math.log(0.75)) / 2
    assert next_token_loss(logits, labels, 2).item() == pytest.approx(expected)
    assert next_token_loss(logits, labels, 8).item() == pytest.approx(expected / 4), "of the whole batch"


def test_losses_of_parts_add_up_to_that_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    logits, base = torch.randn(3, 6, 9, generator=generator), torch.randn(3, 6, 9, generator=generator)
    labels = torch.randint(0, 9, (3, 6), generator=generator)
    for measure in (next_token_loss, lambda a, b, n: kl_to_base(a, base[: len(a)], b, n)):
        assert measure(logits, labels, 15).item() > 0
    parts = [next_token_loss(logits[i : i + 1], labels[i : i + 1], 15) for i in range(3)]
    torch.testing.assert_close(sum(parts), next_token_loss(logits, labels, 15))
    parts = [kl_to_base(logits[i : i + 1], base[i : i + 1], labels[i : i + 1], 15) for i in range(3)]
    torch.testing.assert_close(sum(parts), kl_to_base(logits, base, labels, 15))


def test_a_process_without_a_label_adds_nothing_and_has_a_gradient_all_the_same():
    logits = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((1, 2), IGNORED)
    loss = next_token_loss(logits, labels, 7) + kl_to_base(logits, torch.zeros(1, 2, 9), labels, 7)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.count_nonzero() == 0


def test_the_kl_by_hand():
    """The base says 1/4 and 3/4 where the model says one half each: sum of p log(p / q) over the base's p."""
    base = torch.log(torch.tensor([[[1.0, 3.0], [1.0, 1.0], [9.0, 1.0]]]))
    model = torch.log(torch.tensor([[[1.0, 1.0], [1.0, 3.0], [1.0, 1.0]]]))
    first = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    second = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    everything, one = torch.tensor([[0, 1, 1]]), torch.tensor([[0, IGNORED, 1]])
    assert kl_to_base(model, base, everything, 2).item() == pytest.approx((first + second) / 2)
    assert kl_to_base(model, base, one, 1).item() == pytest.approx(second), "where there is a label"
    assert first != pytest.approx(second), "the two directions differ"


@EACH_METHOD
def test_the_kl_of_an_untouched_model_is_zero(tiny_model, method):
    model, batch = model_to_train(tiny_model, method), some_batch()
    base = base_logits_of(model, method)(**batch)
    with torch.no_grad():
        logits = model(**batch).logits
    assert kl_to_base(logits, base, labels_of(batch), 30).abs().item() < 1e-6


@EACH_METHOD
def test_the_logits_of_the_base_are_its_own_after_training_too(tiny_model, method):
    model, batch = model_to_train(tiny_model, method), some_batch()
    base_logits = base_logits_of(model, method)
    teach(model, method)
    with torch.no_grad():
        expected = load_model(tiny_model).eval()(**batch).logits
        learned = model(**batch).logits
    base = base_logits(**batch)
    assert torch.equal(base, expected)
    assert not base.requires_grad
    assert not torch.allclose(learned, expected, atol=0.1)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, learned), "the adapter is on again"
    assert model.training
    assert kl_to_base(learned, base, labels_of(batch), 30).item() > 0.01


@EACH_METHOD
def test_asking_for_the_base_between_forward_and_backward_changes_no_gradient(tiny_model, method):
    gradients = []
    for ask in (False, True):
        model, batch = model_to_train(tiny_model, method), some_batch()
        teach(model, method)
        base_logits = base_logits_of(model, method)
        logits = model(**batch).logits
        if ask:
            base_logits(**batch)
        next_token_loss(logits, labels_of(batch), 30).backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if method == "memory":
            (table,) = model.memory_adapter.tables.values()
            assert len(table.reads) == 1
            found = [table.row_gradients(torch.arange(64))]
        gradients.append(found)
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


@EACH_METHOD
def test_packed_texts_have_the_loss_and_the_gradients_of_padded_ones(tiny_model, method):
    """Of the whole objective, with prompts, replay and a text of one token; a memory counts the same reads too."""
    ids = some_batch()["input_ids"].tolist()
    batch = Batch([Sequence(ids[0][:5]), Sequence(ids[1], 8), Sequence(ids[0][7:8])], [Sequence(ids[0][9:])])
    losses, gradients, counts = [], [], []
    for packing in (False, True):
        model, part = model_to_train(tiny_model, method), collate(batch, 0, packing=packing)
        labels, num_targets, mask = part.pop("labels"), part.pop("num_targets"), part.pop("memory_mask")
        teach(model, method)
        base = base_logits_of(load_model(tiny_model), "full")(**part)
        if method != "full":  # its own base is what it learned
            torch.testing.assert_close(base_logits_of(model, method)(**part), base)
        read = part | ({"memory_mask": mask} if method == "memory" else {})
        logits = model(**read, use_cache=False).logits
        near, far = next_token_loss(logits, labels, num_targets), kl_to_base(logits, base, labels, num_targets)
        (near + 0.5 * far).backward()
        losses.append(torch.stack([near, far]).detach())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        if method == "memory":
            (table,) = model.memory_adapter.tables.values()
            gradients[-1] = [table.row_gradients(torch.arange(64))]
            counts.append(table.access_counts())
    assert losses[0].min() > 0.1
    torch.testing.assert_close(losses[1], losses[0])
    assert max(gradient.abs().max() for gradient in gradients[0]) > 0.01
    for packed, padded in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)
    if method == "memory":
        assert all(map(torch.equal, *counts))
        assert counts[0][1].sum() == (5 + 20 + 1) * 4 * 4, "heads and slots per head"
