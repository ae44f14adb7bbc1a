"""What training minimises: next-token loss, and on request the distance to the untouched base.

B sequences, T tokens, V vocabulary. The base's predictions come from the same weights with the adapter
switched off, so LoRA and memory need no second model in memory; full finetuning keeps a frozen copy.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from active_reading.train.adapter import memory_disabled
from active_reading.train.batches import IGNORED

BaseLogits = Callable[..., Tensor]


def next_token_loss(logits: Tensor, labels: Tensor, num_targets: int) -> Tensor:
    """Cross-entropy (nats) of logits (B, T, V), summed over the labels (B, T) and divided by `num_targets`."""
    total = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / num_targets


def kl_to_base(logits: Tensor, base_logits: Tensor, labels: Tensor, num_targets: int) -> Tensor:
    """KL(base || model) in nats where there is a label, summed and divided by `num_targets`.

    Its size on new text predicts forgetting (RL's Razor, Shenfeld et al. 2025, arXiv 2509.04259).
    """
    known = labels[:, 1:] != IGNORED
    model = F.log_softmax(logits[:, :-1][known].float(), dim=-1)
    base = F.log_softmax(base_logits[:, :-1][known].float(), dim=-1)
    return F.kl_div(model, base, log_target=True, reduction="sum") / num_targets


def base_logits_of(model: Any, method: str) -> BaseLogits:
    """A function from what the model reads of a batch, by name (B, T), to the untouched base's logits (B, T, V)."""
    frozen = copy.deepcopy(model).requires_grad_(False) if method == "full" else model

    def without_adapter() -> AbstractContextManager[Any]:
        if method == "memory":
            return memory_disabled(model)
        return model.disable_adapter() if method == "lora" else torch.no_grad()

    @torch.no_grad()
    def logits(**read: Tensor) -> Tensor:
        was_training = frozen.training
        frozen.eval()
        with without_adapter():
            # With a cache, transformers would take no notice of where packed texts begin.
            result: Tensor = frozen(**read, use_cache=False).logits
        frozen.train(was_training)
        return result

    return logits
