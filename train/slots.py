"""Which slots may learn: background counts and the TF-IDF ranking of Lin et al. 2025 (arXiv 2510.15103).

A slot scores `c(i) / sum(c) * log((B + 1) / (df(i) + 1))`: c is how often this step's batch reads it, df in
how many of B batches of generic text it is read. Slots that ordinary language uses stay as they are.
"""

import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory


def tf_idf(counts: Tensor, background_counts: Tensor, num_background_batches: int) -> Tensor:
    """(N,) score of every slot; zero where the batch does not read it."""
    frequency = counts / counts.sum().clamp_min(1)
    rarity = torch.log((num_background_batches + 1) / (background_counts + 1))
    return frequency * rarity


def select_slots(scores: Tensor, counts: Tensor, top_t: int) -> Tensor:
    """Indices of the `top_t` best slots that the batch reads (fewer where it reads fewer)."""
    best = scores.masked_fill(counts == 0, -torch.inf).topk(min(top_t, len(scores))).indices
    return best[counts[best] > 0]


@torch.no_grad()
def count_background(memory: ProductKeyMemory, batches: list[Tensor]) -> Tensor:
    """(N,) in how many batches of generic hidden states, each (M, D), a slot is read."""
    counts = torch.zeros(memory.num_slots)
    for hidden in batches:
        slots, _ = memory.lookup(hidden.to(memory.keys.device))
        counts[slots.flatten().unique().cpu()] += 1
    return counts
