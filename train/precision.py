"""Precision: which number format is fast here."""

import torch


def compute_dtype() -> torch.dtype:
    """bf16 on GPUs and on CPUs with matrix units for it (AMX); fp32 on other CPUs, where bf16 is slower."""
    if torch.cuda.is_available():
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32
