"""How far a model's predictions moved from the untouched model's: forward KL(base || model).

On new text it foretells forgetting better than changes of the weights do (Shenfeld et al. 2025, arXiv 2509.04259).
B batch, T tokens, V vocabulary. NOT covered: models of two vocabularies.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from active_reading.eval.answers import batched, pad_right


@torch.no_grad()
def forward_kl(
    base: Any, model: Any, tokenizer: Any, texts: list[str], batch_size: int, max_length: int = 512
) -> list[float]:
    """Mean over each text's tokens of KL(base || model) of the next token, in nats; never below zero.

    Raises ValueError for a text of fewer than two tokens.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 2:
            raise ValueError(f"the text {text!r} has {len(row)} tokens, and a distance needs two: leave it out")
    found: list[float] = []
    for batch in batched(rows, batch_size):
        ids, mask = pad_right(batch, tokenizer.pad_token_id)
        ids, mask = ids.to(model.device), mask.to(model.device)
        per_token = token_kl(
            base(input_ids=ids, attention_mask=mask).logits, model(input_ids=ids, attention_mask=mask).logits
        )
        found += [float(per_token[place, : len(row) - 1].mean()) for place, row in enumerate(batch)]
    return found


def token_kl(base: Tensor, model: Tensor) -> Tensor:
    """(B, T) KL of each place's prediction, from logits (B, T, V)."""
    old, new = F.log_softmax(base.float(), -1), F.log_softmax(model.float(), -1)
    return (old.exp() * (old - new)).sum(-1).clamp_min(0.0)
