"""How likely a model finds given texts, and how far its predictions moved from the untouched model's.

Both come from one forward pass. On new text the forward KL(base || model) foretells forgetting better than changes
of the weights do (Shenfeld et al. 2025, arXiv 2509.04259). B batch, T tokens, V vocabulary.
NOT covered: models of two vocabularies.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from active_reading.train.objectives import BaseLogits, token_kl


class TextScores(NamedTuple):
    """Means over the tokens of a text, its first one excepted, in nats."""

    nll: float
    kl: float | None  # of the base's next-token predictions and the model's; None where no base was given


@torch.no_grad()
def text_scores(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    batch_size: int,
    base_logits: BaseLogits | None = None,
    max_length: int = 512,
) -> list[TextScores]:
    """The scores of each text, of its first `max_length` tokens.

    Raises ValueError, before the model is run, for a text of fewer than two tokens: it has nothing to predict.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 2:
            raise ValueError(f"the text {text!r} has {len(row)} tokens, and scores need two: leave it out")
    found: dict[int, TextScores] = {}
    by_length = sorted(range(len(rows)), key=lambda place: len(rows[place]))  # little padding
    for batch in batched(by_length, batch_size):
        ids, mask = pad_right([rows[place] for place in batch], tokenizer.pad_token_id)
        read = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
        logits = model(**read, use_cache=False).logits
        base = base_logits(**read) if base_logits else None
        for row, place in enumerate(batch):  # one by one, as the vocabulary is large
            last = len(rows[place]) - 1
            nll = float(token_nll(logits[row, :last], read["input_ids"][row, 1 : last + 1]).mean())
            # Rounding goes below zero.
            kl = None if base is None else float(token_kl(base[row, :last], logits[row, :last]).clamp_min(0).mean())
            found[place] = TextScores(nll, kl)
    return [found[place] for place in range(len(texts))]


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """(T,) negative log-likelihood of each token, from the logits (T, V) that predict it."""
    return F.cross_entropy(logits.float(), ids, reduction="none")


def pad_right(rows: list[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive pieces of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
