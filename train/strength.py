"""A model with a share of what it learned.

Between a base and what a training made of it lie models that know less than the trained one and have forgotten
less; less, too, than a training that was stopped when it knew as much (EXPERIMENTS.md, 2026-11-29).
Wortsman et al. 2022 (arXiv 2109.01903) do this to whole models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from active_reading.train.load import load_model
from active_reading.train.settings import Method


@contextmanager
def at_strength(model: Any, method: Method, base_model: str, share: float) -> Iterator[None]:
    """Within it, `model`, which `method` made of `base_model`, has `share` of what it learned; 0 is the base.

    Full finetuning: every weight lies that far from the base's to its own, and the base is loaded for it. Memory
    and LoRA: the values, or LoRA's second factors, are that much smaller.
    """
    ends = {weight: weight.detach().clone() for weight in _learned(model, method)}
    starts = [weight.detach() for weight in load_model(base_model).parameters()] if method == "full" else None
    try:
        for place, (weight, end) in enumerate(ends.items()):
            start = starts[place].to(end) if starts else torch.zeros_like(end)
            _set(weight, start.lerp(end, share))
        yield
    finally:
        for weight, end in ends.items():
            _set(weight, end)


@torch.no_grad()
def _set(weight: Tensor, value: Tensor) -> None:
    weight.copy_(value)
    # Autocast that surrounds all this would go on with the weight as it was when it was first cast.
    torch.clear_autocast_cache()


def _learned(model: Any, method: Method) -> list[Tensor]:
    if method == "memory":
        return [table.values for table in model.memory_adapter.tables.values()]
    return [weight for name, weight in model.named_parameters() if method == "full" or "lora_B" in name]
