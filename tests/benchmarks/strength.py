"""A trained model with a share of what it learned: between its base and what it became (Wortsman et al. 2022)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from active_reading.train.load import load_model
from active_reading.train.settings import Method


@contextmanager
def at_strength(model: Any, method: Method, base: str, share: float) -> Iterator[None]:
    """Within it, `model`, which `method` made of the one in folder `base`, has `share` of what it learned.

    Full finetuning: every weight lies that far from the base's to its own. Memory and LoRA: the values, or LoRA's
    second factors, which were zero at first, are that much smaller.
    """
    ends = {weight: weight.detach().clone() for weight in _learned(model, method)}
    starts = list(load_model(base).parameters()) if method == "full" else [torch.tensor(0.0)] * len(ends)
    try:
        with torch.no_grad():
            for (weight, end), start in zip(ends.items(), starts, strict=True):
                weight.copy_(start.to(end).lerp(end, share))
        yield
    finally:
        with torch.no_grad():
            for weight, end in ends.items():
                weight.copy_(end)


def _learned(model: Any, method: Method) -> list[Tensor]:
    if method == "memory":
        return [table.values for table in model.memory_adapter.tables.values()]
    return [weight for name, weight in model.named_parameters() if method == "full" or "lora_B" in name]
