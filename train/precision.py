"""Precision: which number format is fast here, for what is computed and what is stored."""

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
    """Store frozen linear layers in bf16 where training runs in it: autocast would cast them in every pass.

    What is computed under autocast stays the same, bit for bit, in half the memory. A layer of another type may
    read its weights outside of autocast: it stays as it is, with all that it shares (an embedding that is the
    output layer, too).
    """
    if compute_dtype() is not torch.bfloat16:
        return
    others = (module for module in model.modules() if type(module) is not nn.Linear)
    shared = {id(parameter) for module in others for parameter in module.parameters(recurse=False)}
    for module in model.modules():
        if type(module) is nn.Linear and not any(p.requires_grad or id(p) in shared for p in module.parameters()):
            module.to(torch.bfloat16)
