"""Warming of fresh memories: they learn generic text, and all that a training promises still holds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from active_reading.train.adapter import MemoryAdapter, attach_memory, memory_disabled
from active_reading.train.adapter_files import read_adapter, write_adapter
from active_reading.train.background import prepare_memory
from active_reading.train.batches import Batch, Sequence, collate, plan_batches, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.objectives import base_logits_of, next_token_loss
from active_reading.train.patch import read_patch, revert_patch
from active_reading.train.settings import LearningRates, MemorySettings, TrainSettings
from active_reading.train.student import make_student
from active_reading.train.trainer import train_model
from active_reading.train.warming import warm_memory

SETTINGS = TrainSettings(
    num_tokens=200,
    batch_tokens=64,
    max_length=48,
    texts_per_sequence=1,
    learning_rates=LearningRates(memory=0.1),
    memory=MemorySettings(
        layers=[1, 3],
        num_keys=16,
        num_heads=2,
        top_k=2,
        top_t=8,
        key_width=4,
        background_texts=6,
        warm_tokens=2000,
        warm_rate=0.1,
    ),
)
SOME = [Sequence([5, 6, 7, 8])]  # new text


def settings_with(seed: int = 0, **memory: Any) -> TrainSettings:
    return SETTINGS.model_copy(update={"seed": seed, "memory": SETTINGS.memory.model_copy(update=memory)})


def warmed(folder: Path, settings: TrainSettings = SETTINGS) -> tuple[Any, MemoryAdapter, list[float]]:
    model, tokenizer = load_model(folder).requires_grad_(False), load_tokenizer(folder)
    adapter = attach_memory(model, settings.memory)
    prepare_memory(model, adapter, tokenizer, settings)
    return model, adapter, warm_memory(model, adapter, tokenizer, settings)


def values(adapter: MemoryAdapter) -> dict[str, Tensor]:
    return {name: table.values.detach() for name, table in adapter.tables.items()}


def warming_batches(folder: Path, settings: TrainSettings) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(folder)
    sequences = tokenize(read_background(), tokenizer, settings.max_length)
    planned = plan_batches(sequences, settings.memory.warm_tokens, settings.batch_tokens, settings.seed)
    return [collate(Batch(batch), tokenizer.pad_token_id) for batch in planned]


@torch.no_grad()
def mean_loss(model: Any, batches: list[dict[str, Any]]) -> float:
    """Nats per token of what the batches hold."""
    total = 0.0
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        total += next_token_loss(logits, batch["labels"], 1).item()
    return total / sum(batch["num_targets"] for batch in batches)


def test_the_loss_on_background_text_falls(tiny_model):
    settings = settings_with(warm_tokens=4000)
    model, _, losses = warmed(tiny_model, settings)
    batches = warming_batches(tiny_model, settings)
    assert len(losses) == len(batches)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    with memory_disabled(model):
        of_base = mean_loss(model, batches)
        assert losses[0] == pytest.approx(mean_loss(model, batches[:1]), rel=1e-5), "values start at zero"
    assert mean_loss(model, batches) < 0.8 * of_base


def test_rows_that_no_text_read_stay_exactly_zero(tiny_model):
    settings = settings_with(warm_tokens=60)
    model, adapter, _ = warmed(tiny_model, settings)
    read: set[int] = set()

    def look_up(_: Any, args: tuple[Tensor, ...]) -> None:  # nothing stands below layer 1: it reads what it read
        read.update(adapter.memories[1].lookup(args[0][mask])[0].flatten().tolist())

    model.model.layers[1].mlp.register_forward_pre_hook(look_up)
    for batch in warming_batches(tiny_model, settings):
        mask = batch["attention_mask"].bool()
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    moved = set(values(adapter)["1"].any(1).nonzero().flatten().tolist())
    assert 20 < len(moved) <= len(read) < 200
    assert moved <= read


def test_the_base_keeps_its_weights(tiny_model):
    model, _, _ = warmed(tiny_model)
    for name, tensor in load_model(tiny_model).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_same_seed_gives_the_same_values_and_another_seed_others(tiny_model):
    first, again, other = (values(warmed(tiny_model, settings_with(seed))[1]) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_warming_counts_nothing_and_leaves_no_reads(tiny_model):
    _, cold, _ = warmed(tiny_model, settings_with(warm_tokens=2))
    _, warm, _ = warmed(tiny_model)
    for name, counted in cold.backgrounds.items():
        assert torch.equal(warm.backgrounds[name].counts, counted.counts)
        assert warm.backgrounds[name].num_batches == counted.num_batches
        assert warm.tables[name].reads == []


def test_a_patch_leads_from_the_warmed_memory_and_back_byte_for_byte(tiny_model, tmp_path):
    student = make_student(str(tiny_model), "memory", SETTINGS, load_tokenizer(tiny_model), SOME)
    assert student.start is not None
    write_adapter(student.start, tmp_path / "warmed")
    train_model(["the cat sat on the mat"], str(tiny_model), "memory", SETTINGS, tmp_path, lambda *_: None)
    before, after = read_adapter(tmp_path / "warmed"), read_adapter(tmp_path)
    patch = read_patch(tmp_path / "patch.safetensors")
    for table in ("1", "3"):
        moved = after.tensors[f"{table}.background_counts"] - before.tensors[f"{table}.background_counts"]
        rows = patch.tensors[f"{table}.rows"]
        assert torch.equal(rows, moved.nonzero().flatten()), "only what a step of the training moved"
        assert 0 < len(rows) < len(before.tensors[f"{table}.rows"])
        assert torch.equal(patch.before(table).float(), before.rows(table, rows))
        assert patch.before(table).any()
    revert_patch(tmp_path / "patch.safetensors", tmp_path)
    for name in ("memory_config.json", "memory.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "warmed" / name).read_bytes()


def test_training_starts_from_warmed_values(tiny_model, tmp_path):
    losses = {}
    for warm_tokens in (0, 2000):
        folder, settings = tmp_path / str(warm_tokens), settings_with(warm_tokens=warm_tokens)
        train_model(read_background(limit=3), str(tiny_model), "memory", settings, folder, lambda *_: None)
        losses[warm_tokens] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert losses[2000] < 0.9 * losses[0]


def test_the_distance_to_the_base_is_that_to_the_base_without_its_memory(tiny_model):
    model, _, _ = warmed(tiny_model)
    ids = torch.arange(2, 42).view(2, 20)
    base = load_model(tiny_model)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(base_logits_of(model, "memory")(input_ids=ids, attention_mask=torch.ones_like(ids)), base)
    assert not torch.allclose(model(input_ids=ids).logits, base, atol=0.1)


def test_a_memory_that_is_trained_on_is_not_warmed_again(tiny_model, tmp_path):
    train_model(["the cat sat"], str(tiny_model), "memory", SETTINGS, tmp_path, lambda *_: None)
    student = make_student(str(tmp_path), "memory", SETTINGS, load_tokenizer(tiny_model), SOME)
    assert student.start is not None
    saved = read_adapter(tmp_path)
    for table in ("1", "3"):
        assert torch.equal(student.start.tensors[f"{table}.values"], saved.tensors[f"{table}.values"])


def test_a_rate_that_is_too_high_is_named(tiny_model):
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d of .*lower train.memory.warm_rate"):
        warmed(tiny_model, settings_with(warm_rate=1e38))


def test_one_token_is_no_text_to_warm_on():
    with pytest.raises(ValueError, match="warm_tokens=1 leaves nothing to predict"):
        MemorySettings(warm_tokens=1)
