"""Precision: which number format is fast here."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


def compute_dtype() -> torch.dtype:
    """bf16 on GPUs and on CPUs that multiply it faster than fp32: those with AMX, and AMD's with AVX512-BF16.

    Intel's have that instruction too, at half the speed of fp32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    can = torch.cpu.get_capabilities()
    fast = can.get("amx_bf16", False) or (can.get("avx512_bf16", False) and "AMD" in str(can.get("cpu_name")))
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """What a training runs its model in, for those who run it beside the Trainer."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16)


def keep_frozen_in_bf16(model: Any) -> None:
    """Where autocast is on, store the weights of linear layers that do not learn as it would cast them each time.

    What is computed under autocast stays the same, bit for bit, without the casts and in half the memory. An
    embedding that is the output layer, too, stays in fp32: it is read outside of linear layers.
    """
    if compute_dtype() is not torch.bfloat16:
        return
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, nn.Linear) and frozen and module.weight is not embedding:
            module.to(torch.bfloat16)
