"""A model's hash: of every weight and shape, and the same in either number format."""

from pathlib import Path

import pytest
import torch

from active_reading.train.adapter import attach_memory
from active_reading.train.identity import weights_hash
from active_reading.train.load import load_model
from active_reading.train.settings import MemorySettings


def test_a_model_has_the_same_hash_whatever_format_it_is_loaded_in(tiny_model: Path):
    full, half = load_model(tiny_model), load_model(tiny_model, torch.bfloat16)
    assert half.model.norm.weight.dtype is torch.bfloat16
    assert weights_hash(full) == weights_hash(half) == weights_hash(full.bfloat16())


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "model.norm.weight"]
)
def test_one_changed_number_anywhere_gives_another_hash(tiny_model: Path, name):
    model = load_model(tiny_model)
    before = weights_hash(model)
    weight = model.get_parameter(name).data.flatten()
    old = weight[-1].item()
    weight[-1] = 1.02 * old + 0.01
    assert weights_hash(model) != before
    weight[-1] = old
    assert weights_hash(model) == before


def test_names_and_shapes_are_part_of_the_hash():
    def model_of(**tensors: torch.Tensor) -> torch.nn.Module:
        model = torch.nn.Module()
        for name, tensor in tensors.items():
            model.register_buffer(name, tensor)
        return model

    models = [
        model_of(a=torch.ones(2, 3), b=torch.zeros(2)),
        model_of(a=torch.ones(3, 2), b=torch.zeros(2)),
        model_of(b=torch.ones(2, 3), a=torch.zeros(2)),
        model_of(a=torch.ones(2, 3)),
    ]
    assert len({weights_hash(model) for model in models}) == 4


def test_memories_are_no_part_of_the_hash(tiny_model: Path):
    model = load_model(tiny_model)
    before = weights_hash(model)
    adapter = attach_memory(model, MemorySettings(layers=[1], num_keys=4, top_k=2, top_t=8))
    adapter.tables["1"].values.fill_(1)
    assert weights_hash(model) == before
