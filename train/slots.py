"""Which slots may learn: how generic text reads them, and how slots are ranked.

U slots that new text reads (that of one step, or all of it); c(i) how often it reads slot i; B batches of generic
text, of which df(i) read slot i. Slots that ordinary language uses stay as they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory
from active_reading.train.settings import SlotScore


@dataclass
class Background:
    """How generic text, and what was learned since, reads each slot."""

    counts: Tensor  # (N,) df
    num_batches: int
    slots: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int32))  # (M, R) read by M tokens
    weights: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bfloat16))  # (M, R)
    # (D, D) mean product of the gradients at what generic tokens of the base read; empty where nobody asked
    gradients: Tensor = field(default_factory=lambda: torch.zeros(0, 0))

    def add(self, slots: Tensor) -> None:
        """Count one more batch, which reads `slots` (U,), each named once."""
        self.counts[slots.to(self.counts.device)] += 1
        self.num_batches += 1

    def add_reads(self, slots: Tensor, weights: Tensor) -> None:
        """Keep how M more tokens read: slots and weights (M, R)."""
        slots, weights = slots.to("cpu", torch.int32), weights.to("cpu", torch.bfloat16)
        self.slots = torch.cat([self.slots, slots]) if len(self.slots) else slots
        self.weights = torch.cat([self.weights, weights]) if len(self.weights) else weights

    def extend(self, other: "Background") -> None:
        """Count `other` too, of the same table."""
        self.counts += other.counts
        self.num_batches += other.num_batches
        self.add_reads(other.slots, other.weights)


def score_slots(
    kind: SlotScore, slots: Tensor, counts: Tensor, background: Background, generator: torch.Generator
) -> Tensor:
    """(U,) scores; the highest may learn. `slots` (U,) are read `counts` (U,) times.

    tf_idf: `c / sum(c) * log((B + 1) / (df + 1))`, Lin et al. 2025 (arXiv 2510.15103).
    kl: `p * log((p + 1e-8) / (q + 1e-8))` with p = c / sum(c) and q = (df + 1) / sum(df + 1).
    tf: c. random: a draw. all: every slot that is read scores the same.
    """
    if kind == "all":
        return torch.ones_like(counts, dtype=torch.float)
    if kind == "random":
        return torch.rand(len(counts), generator=generator).to(counts.device)
    frequency = counts / counts.sum().clamp_min(1)
    if kind == "tf":
        return frequency
    known = background.counts[slots.to(background.counts.device)].to(counts.device)
    if kind == "tf_idf":
        return frequency * torch.log((background.num_batches + 1) / (known + 1))
    usual = (known + 1) / (background.counts.sum() + len(background.counts)).item()
    return frequency * torch.log((frequency + 1e-8) / (usual + 1e-8))


@torch.no_grad()
def count_background(memory: ProductKeyMemory, batches: Iterable[Tensor]) -> Background:
    """Read batches of generic hidden states, each (M, D), as the memory would."""
    background = Background(torch.zeros(memory.table.num_slots), 0)
    for hidden in batches:
        slots, weights = memory.lookup(hidden.to(memory.keys.device))
        background.add(slots.unique())
        background.add_reads(slots, weights)
    return background


def usage(background: Background) -> dict[str, float]:
    """How evenly generic text uses the slots.

    hub_share: share of all reads that the most read 1 % of slots take; dead_share: slots never read;
    entropy: of the reads, divided by its largest possible value (1: all slots alike).
    """
    counts = background.counts.double()
    total = counts.sum().clamp_min(1)
    share = counts[counts > 0] / total
    hubs = counts.topk(max(1, len(counts) // 100)).values.sum() / total
    entropy = -(share * share.log()).sum() / torch.log(torch.tensor(float(len(counts))))
    return {
        "hub_share": round(hubs.item(), 4),
        "dead_share": round((counts == 0).double().mean().item(), 4),
        "entropy": round(entropy.item(), 4),
    }
