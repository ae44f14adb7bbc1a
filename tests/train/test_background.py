"""The background of fresh memories: their keys and counts are of what the model itself reads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from active_reading.train.adapter import MemoryAdapter, attach_memory
from active_reading.train.background import SEED, prepare_memory
from active_reading.train.batches import Batch, collate, mixed_batches, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.own_text import write_own_text
from active_reading.train.settings import MemorySettings, TrainSettings

SETTINGS = TrainSettings(
    batch_tokens=200,
    max_length=160,
    memory=MemorySettings(layers=[1, 3], num_keys=8, num_heads=2, top_k=3, top_t=8, background_texts=9),
)


def prepared(folder: Path, **changes: Any) -> tuple[Any, MemoryAdapter]:
    settings = SETTINGS.model_copy(update={"memory": SETTINGS.memory.model_copy(update=changes)})
    model = load_model(folder)
    adapter = attach_memory(model, settings.memory)
    prepare_memory(model, adapter, load_tokenizer(folder), settings)
    return model, adapter


@torch.no_grad()
def slots_by_batch(model: Any, adapter: MemoryAdapter, folder: Path) -> dict[int, list[set[int]]]:
    """What each layer reads of each batch of the background, from the model's own MLP inputs."""
    tokenizer = load_tokenizer(folder)
    sequences = tokenize(read_background(limit=9), tokenizer, 160)
    read: dict[int, list[set[int]]] = {layer: [] for layer in adapter.memories}
    for texts in mixed_batches(sequences, 200, 0):
        batch = collate(Batch(texts), tokenizer.pad_token_id)
        inputs: dict[int, torch.Tensor] = {}
        handles = [
            model.model.layers[layer].mlp.register_forward_pre_hook(
                lambda _, args, layer=layer, inputs=inputs: inputs.update({layer: args[0]})
            )
            for layer in adapter.memories
        ]
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        for handle in handles:
            handle.remove()
        for layer, memory in adapter.memories.items():
            real = inputs[layer][batch["attention_mask"].bool()]
            read[layer].append(set(memory.lookup(real)[0].flatten().tolist()))
    return read


def test_counts_are_of_the_batches_in_which_a_layer_reads_a_slot(tiny_model):
    model, adapter = prepared(tiny_model)
    for layer, batches in slots_by_batch(model, adapter, tiny_model).items():
        counted = adapter.backgrounds[str(layer)]
        assert counted.num_batches == len(batches) >= 4
        assert counted.counts.tolist() == [sum(slot in read for read in batches) for slot in range(64)]
        assert 0 < counted.counts.max() <= len(batches)


def test_a_shared_table_counts_what_all_its_layers_read(tiny_model):
    model, adapter = prepared(tiny_model, shared_values=True)
    batches = [read for layer in slots_by_batch(model, adapter, tiny_model).values() for read in layer]
    assert list(adapter.backgrounds) == ["shared"]
    assert adapter.backgrounds["shared"].num_batches == len(batches)
    assert adapter.backgrounds["shared"].counts.tolist() == [sum(s in read for read in batches) for s in range(64)]


def test_what_the_untouched_model_writes_is_read_too(tiny_model):
    (_, alone), (_, both) = prepared(tiny_model), prepared(tiny_model, own_texts=3)
    tokenizer = load_tokenizer(tiny_model)
    written = tokenize(write_own_text(load_model(tiny_model), tokenizer, 3, SEED), tokenizer, 160)
    for layer in ("1", "3"):
        more = len(both.backgrounds[layer].slots) - len(alone.backgrounds[layer].slots)
        assert more == sum(map(len, written)) > 100
        assert not torch.equal(both.backgrounds[layer].gradients, alone.backgrounds[layer].gradients)


@pytest.mark.parametrize("codebooks", ["kmeans", "random"])
def test_every_layer_gets_keys_and_the_same_seed_the_same_ones(tiny_model, codebooks):
    (_, first), (_, again) = prepared(tiny_model, codebooks=codebooks), prepared(tiny_model, codebooks=codebooks)
    for layer, memory in first.memories.items():
        for tensor in (memory.keys, memory.query_weight, memory.query_mean):
            assert torch.isfinite(tensor).all()
            assert tensor.abs().max() > 0
        assert torch.equal(memory.keys, again.memories[layer].keys)
    assert not torch.equal(first.memories[1].query_mean, first.memories[3].query_mean)
    assert all(table.values.count_nonzero() == 0 and table.reads == [] for table in first.tables.values())


def test_keys_are_of_the_kind_that_was_asked_for(tiny_model):
    (_, fitted), (_, random) = prepared(tiny_model), prepared(tiny_model, codebooks="random")
    assert torch.equal(fitted.memories[1].query_weight, random.memories[1].query_weight)
    assert not torch.allclose(fitted.memories[1].keys, random.memories[1].keys, atol=0.1)


def test_a_base_whose_weights_are_broken_is_told(tiny_model):
    model = load_model(tiny_model)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.nan)
        model.get_input_embeddings().weight.fill_(torch.nan)
    adapter = attach_memory(model, SETTINGS.memory)
    with pytest.raises(ValueError, match="the weights in .* are broken: its hidden states are not finite"):
        prepare_memory(model, adapter, load_tokenizer(tiny_model), SETTINGS)
