"""The sparse row optimizer: each step moves the value rows that score best, and nothing else.

A row moves by `lr * gradient / running RMS of that row's gradient`. Plain SGD, which the paper uses on a
pretrained memory, hardly moves a fresh one, because the scale of its gradients is far from the weights'.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory
from active_reading.train.slots import select_slots, tf_idf

RMS_DECAY = 0.9
EPSILON = 1e-12


class SparseRowOptimizer(torch.optim.Optimizer):
    """Optimizes `memory.values` of each memory from the reads that the backward passes left there."""

    def __init__(
        self,
        memories: dict[int, ProductKeyMemory],
        background_counts: dict[int, Tensor],
        num_background_batches: int,
        lr: float,
        top_t: int,
    ) -> None:
        self.memories = [(memory, background_counts[layer]) for layer, memory in memories.items()]
        self.num_background_batches = num_background_batches
        self.top_t = top_t
        super().__init__([memory.values for memory, _ in self.memories], {"lr": lr})
        for memory, _ in self.memories:
            device = memory.values.device
            self.state[memory.values] = {
                "mean_square": torch.zeros(memory.num_slots, device=device),
                "row_steps": torch.zeros(memory.num_slots, device=device),
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("the sparse row optimizer takes no closure")
        lr = self.param_groups[0]["lr"]
        for memory, background in self.memories:
            if not memory.reads:
                continue
            counts = memory.access_counts()
            scores = tf_idf(counts, background.to(counts.device), self.num_background_batches)
            rows = select_slots(scores, counts, self.top_t)
            gradients = memory.row_gradients(rows)
            memory.values[rows] -= lr * self._normalized(memory, rows, gradients)
            memory.reads.clear()

    def _normalized(self, memory: ProductKeyMemory, rows: Tensor, gradients: Tensor) -> Tensor:
        state = self.state[memory.values]
        steps = state["row_steps"][rows] + 1
        mean_square = torch.lerp(gradients.square().mean(1), state["mean_square"][rows], RMS_DECAY)
        state["row_steps"][rows] = steps
        state["mean_square"][rows] = mean_square
        unbiased = mean_square / (1 - RMS_DECAY**steps)
        return gradients / (unbiased.sqrt() + EPSILON)[:, None]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget reads that no step used."""
        for memory, _ in self.memories:
            memory.reads.clear()
        super().zero_grad(set_to_none)

    def touched_rows(self) -> dict[int, int]:
        """How many rows of each memory have ever moved, in the order of the layers."""
        return {
            place: int((self.state[memory.values]["row_steps"] > 0).sum())
            for place, (memory, _) in enumerate(self.memories)
        }
