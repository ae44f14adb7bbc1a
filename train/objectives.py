"""What training minimises: next-token loss, and on request the distance to the untouched base.

B sequences, T tokens, V vocabulary. The base's predictions come from the same weights with the adapter
switched off, so LoRA and memory need no second model in memory; full finetuning keeps a frozen copy.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from active_reading.train.adapter import memory_disabled
from active_reading.train.batches import IGNORED
from active_reading.train.precision import autocast

BaseLogits = Callable[..., Tensor]


def next_token_loss(logits: Tensor, labels: Tensor, num_targets: int) -> Tensor:
    """Cross-entropy (nats) of logits (B, T, V), summed over the labels (B, T) and divided by `num_targets`."""
    total = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / num_targets


def token_kl(base_logits: Tensor, logits: Tensor) -> Tensor:
    """(...) KL(base || model) in nats of each place's prediction, from logits (..., V)."""
    base, model = F.log_softmax(base_logits.float(), dim=-1), F.log_softmax(logits.float(), dim=-1)
    return F.kl_div(model, base, log_target=True, reduction="none").sum(-1)


def kl_to_base(logits: Tensor, base_logits: Tensor, labels: Tensor, num_targets: int) -> Tensor:
    """KL(base || model) in nats where there is a label, summed and divided by `num_targets`.

    Its size on new text predicts forgetting (RL's Razor, Shenfeld et al. 2025, arXiv 2509.04259).
    """
    known = labels[:, 1:] != IGNORED
    return token_kl(base_logits[:, :-1][known], logits[:, :-1][known]).sum() / num_targets


def base_logits_of(model: Any, method: str) -> BaseLogits:
    """`untouched_logits` of the model before it is trained: full finetuning changes it, and so it is copied."""
    if method != "full":
        return untouched_logits(model)
    frozen = untouched_logits(copy.deepcopy(model).requires_grad_(False))

    def logits(**read: Tensor) -> Tensor:
        with autocast(next(model.parameters()).device):  # as the Trainer runs the one that is trained
            return frozen(**read)

    return logits


def untouched_logits(model: Any) -> BaseLogits:
    """A function from what the model reads of a batch, by name (B, T), to logits (B, T, V) without its adapter."""

    def without_adapter() -> AbstractContextManager[Any]:
        if hasattr(model, "memory_adapter"):
            return memory_disabled(model)
        return model.disable_adapter() if hasattr(model, "peft_config") else nullcontext()

    @torch.no_grad()
    def logits(**read: Tensor) -> Tensor:
        was_training = model.training
        model.eval()
        with without_adapter():
            # With a cache, transformers would take no notice of where packed texts begin.
            result: Tensor = model(**read, use_cache=False).logits
        model.train(was_training)
        return result

    return logits
