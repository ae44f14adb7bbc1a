"""Precision: which number format is fast here."""

from contextlib import AbstractContextManager

import torch


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
