"""What the tests of training share: settings, a training that keeps hold of its model, what it wrote."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from active_reading.train import student
from active_reading.train.load import load_model
from active_reading.train.settings import LearningRates, LoraSettings, MemorySettings, TrainSettings
from active_reading.train.trainer import train_model

METHODS = ["full", "lora", "memory"]
EACH_METHOD = pytest.mark.parametrize("method", METHODS)
SETTINGS = TrainSettings(
    num_tokens=1200,
    batch_tokens=64,
    max_length=48,
    texts_per_sequence=1,
    learning_rates=LearningRates(full=1e-2, lora=2e-2, memory=0.2),
    lora=LoraSettings(rank=4, alpha=8),
    memory=MemorySettings(
        layers=[1, 2], num_keys=8, num_heads=2, top_k=4, top_t=32, background_texts=3, own_texts=1, key_width=4
    ),
)
TEXTS = ["the cat sat on the mat", "a heron called Admiral", "born in 1921 near the sea", "lazurine is a moss"]
WARMED = {"memory": {"warm_tokens": 300}}


@dataclass
class Run:
    """A finished training: its summary, its folder, and the model as it was when training ended."""

    summary: dict[str, Any]
    folder: Path
    model: Any
    progress: list[tuple[int, int, str]]


def settings_with(**changes: Any) -> TrainSettings:
    """The settings of this file but for `changes`; those of `memory` are changes too."""
    memory = SETTINGS.memory.model_copy(update=changes.pop("memory", {}))
    return SETTINGS.model_copy(update={"memory": memory, **changes})


def train(
    base: Path,
    method: Any,
    folder: Path,
    on_step: Callable[[int, Any], None] | None = None,
    groups: list[str] | None = None,
    texts: list[str] = TEXTS,
    **changes: Any,
) -> Run:
    """`train_model`, keeping hold of the model that it trains in place."""
    models, progress = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "load_model", lambda *args: models.append(load_model(*args)) or models[-1])
        settings = settings_with(**changes)
        told = lambda *args: progress.append(args)  # noqa: E731
        summary = train_model(texts, str(base), method, settings, folder, told, groups, on_step)
    return Run(summary, folder, models[0].eval(), progress)


def some_tokens() -> Tensor:
    return torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=some_tokens()).logits.float()


def final_tensors(folder: Path) -> dict[str, Tensor]:
    """All that a training wrote, by file and name."""
    paths = sorted(folder.glob("*.safetensors"))
    assert paths
    return {f"{path.name} {name}": tensor for path in paths for name, tensor in load_file(path).items()}


def same(first: Path, second: Path) -> bool:
    """Whether two trainings ended with the same tensors, bit for bit."""
    one, other = final_tensors(first), final_tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
