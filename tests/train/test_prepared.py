"""Prepared memories: made once, opened by the next training, and the same as those that are made each time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from active_reading.train import prepared
from active_reading.train.adapter import memory_files
from active_reading.train.adapter_files import WEIGHTS_NAME
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.patch import revert_patch
from active_reading.train.prepared import fresh_memory
from active_reading.train.settings import MemorySettings, TrainSettings
from active_reading.train.student import PATCH_NAME
from active_reading.train.trainer import train_model

SETTINGS = TrainSettings(
    num_tokens=300,
    batch_tokens=100,
    max_length=60,
    texts_per_sequence=1,
    memory=MemorySettings(layers=[1, 2], num_keys=8, num_heads=2, top_k=4, top_t=32, background_texts=3),
)
TEXTS = ["the cat sat on the mat", "a heron called Admiral", "born in 1921 near the sea", "lazurine is a moss"]


def attached(base: Path, memories: Path | None, settings: TrainSettings = SETTINGS) -> dict[str, Tensor]:
    model = load_model(base)
    model.requires_grad_(False)
    fresh_memory(model, str(base), load_tokenizer(base), settings, memories)
    return memory_files(model, str(base)).tensors


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def never(*_: Any) -> None:
    raise AssertionError("prepared again")


def test_a_memory_is_prepared_once_and_is_the_one_that_is_made_each_time(tiny_model, tmp_path, monkeypatch):
    alone = attached(tiny_model, None)
    made = attached(tiny_model, tmp_path / "memories")
    assert alone["1.background_gradients"].shape == (32, 32)
    monkeypatch.setattr(prepared, "prepare_memory", never)
    opened = attached(tiny_model, tmp_path / "memories")
    assert same(alone, made)
    assert same(alone, opened)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({"batch_tokens": 80}, {}),
        ({"max_length": 50}, {}),
        ({}, {"num_keys": 7}),
        ({}, {"background_texts": 2}),
        ({}, {"own_texts": 1}),
    ],
)
def test_another_setting_gets_a_memory_of_its_own(tiny_model, tmp_path, outer, inner):
    changed = SETTINGS.model_copy(update=outer | {"memory": SETTINGS.memory.model_copy(update=inner)})
    attached(tiny_model, tmp_path)
    assert same(attached(tiny_model, tmp_path, changed), attached(tiny_model, None, changed))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_does_not_shape_a_fresh_memory_makes_no_other(tiny_model, tmp_path):
    memory = SETTINGS.memory.model_copy(update={"top_t": 9, "damping": 0.5, "slot_score": "tf"})
    attached(tiny_model, tmp_path)
    changed = SETTINGS.model_copy(update={"memory": memory, "num_tokens": 200, "seed": 1})
    assert same(attached(tiny_model, tmp_path, changed), attached(tiny_model, None, changed))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_rule_without_natural_gradients_asks_for_no_gradients(tiny_model, tmp_path):
    by_row = SETTINGS.model_copy(update={"memory": SETTINGS.memory.model_copy(update={"update_rule": "row"})})
    assert not attached(tiny_model, tmp_path, by_row)["1.background_gradients"].numel()


def test_what_a_memory_of_another_rule_learned_by_the_natural_gradient_is_taken_back(tiny_model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    by_row = SETTINGS.model_copy(update={"memory": SETTINGS.memory.model_copy(update={"update_rule": "row"})})
    train_model(TEXTS, str(tiny_model), "memory", by_row, first, lambda *_: None)
    train_model(TEXTS, str(first), "memory", SETTINGS, second, lambda *_: None)
    assert (second / WEIGHTS_NAME).read_bytes() != (first / WEIGHTS_NAME).read_bytes()
    revert_patch(second / PATCH_NAME, second)
    assert (second / WEIGHTS_NAME).read_bytes() == (first / WEIGHTS_NAME).read_bytes()


def test_trainings_that_share_a_prepared_memory_come_to_the_same_weights(tiny_model, tmp_path):
    for name in ("one", "two"):
        place = tmp_path / name
        train_model(TEXTS, str(tiny_model), "memory", SETTINGS, place, lambda *_: None, memories=tmp_path / "kept")
    one, two = (memory_files(load_model(tmp_path / name), "").tensors for name in ("one", "two"))
    assert same(one, two)
    assert one["1.values"].any()


def test_a_prepared_memory_that_is_damaged_is_named(tiny_model, tmp_path):
    attached(tiny_model, tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "memory.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=f"{folder.name}/memory.safetensors is damaged.*make it again"):
        attached(tiny_model, tmp_path)
