"""Precision: which number format is fast here."""

from contextlib import AbstractContextManager

import torch


def compute_dtype() -> torch.dtype:
    """bf16 on GPUs and on CPUs that multiply it (AVX512-BF16, AMX); fp32 on others, where bf16 is slower."""
    if torch.cuda.is_available():
        return torch.bfloat16
    can = torch.cpu.get_capabilities()
    return torch.bfloat16 if can.get("avx512_bf16", False) or can.get("amx_bf16", False) else torch.float32


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """What a training runs its model in, for those who run it beside the Trainer."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16)
