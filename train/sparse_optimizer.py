"""The sparse row optimizers: they move a few value rows, and nothing else.

`SparseRowOptimizer` chooses in each step the rows that score best, and moves each by `lr * gradient / running
RMS`. Plain SGD, which the paper uses on a pretrained memory, hardly moves a fresh one, because the scale of its
gradients is far from the weights'. The RMS is of that row's gradient (`update_rule="row"`) or of all the rows that
move (`"table"`). `NaturalRowOptimizer` moves the same rows in every step, by their natural gradient.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from active_reading.train.memory import ValueTable
from active_reading.train.natural_gradient import Curvature
from active_reading.train.settings import MemorySettings
from active_reading.train.slots import Background, score_slots

RMS_DECAY = 0.9
EPSILON = 1e-12


class SparseRowOptimizer(torch.optim.Optimizer):
    """Moves the rows of each table from the reads that the backward passes left there.

    Under `torch.distributed`, slots are counted and gradients averaged over all ranks, so that every rank
    moves the same rows by the same amount.
    """

    def __init__(
        self,
        tables: dict[str, ValueTable],
        backgrounds: dict[str, Background],
        settings: MemorySettings,
        lr: float,
        seed: int = 0,
    ) -> None:
        self.tables = tables
        self.backgrounds = backgrounds
        self.settings = settings
        self.seed = seed
        self.generator = torch.Generator()
        super().__init__([table.values for table in tables.values()], {"lr": lr, "steps": 0})
        for table in tables.values():
            device = table.values.device
            self.state[table.values] = {
                "mean_square": torch.zeros(table.num_slots if settings.update_rule == "row" else 1, device=device),
                "row_steps": torch.zeros(table.num_slots, device=device),
                "norm_steps": torch.zeros(table.num_slots if settings.update_rule == "row" else 1, device=device),
            }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("the sparse row optimizer takes no closure")
        group = self.param_groups[0]
        group["steps"] += 1
        # A seed for each step: a training that goes on from a checkpoint draws what it would have drawn.
        self.generator.manual_seed(1_000_003 * self.seed + group["steps"])
        for name, table in self.tables.items():
            rows = self._choose(name)
            if len(rows):
                gradients = _mean_over_ranks(table.row_gradients(rows))
                step = group["lr"] * self._direction(name, rows, gradients)
                table.values[rows] -= step.to(table.values.dtype)
                self.state[table.values]["row_steps"][rows] += 1
            table.reads.clear()

    def _choose(self, name: str) -> Tensor:
        """(t,) the rows of one table that move in this step."""
        table = self.tables[name]
        slots, counts = _over_ranks(table, *table.access_counts())
        return best_slots(self.settings, slots, counts, self.backgrounds[name], self.generator)

    def _direction(self, name: str, rows: Tensor, gradients: Tensor) -> Tensor:
        """(t, D) what to subtract, at a learning rate of 1."""
        square = gradients.square().mean(1)
        if self.settings.update_rule != "row":
            rows, square = rows.new_zeros(1), square.mean(0, keepdim=True)
        return gradients / self._running_root(name, rows, square)[:, None]

    def _running_root(self, name: str, places: Tensor, square: Tensor) -> Tensor:
        """Root of the running mean of squares, at some places of the state: all the same shape (P,)."""
        state = self.state[self.tables[name].values]
        steps = state["norm_steps"][places] + 1
        mean_square = torch.lerp(square, state["mean_square"][places], RMS_DECAY)
        state["norm_steps"][places] = steps
        state["mean_square"][places] = mean_square
        return (mean_square / (1 - RMS_DECAY**steps)).sqrt() + EPSILON

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget reads that no step used."""
        for table in self.tables.values():
            table.reads.clear()
        super().zero_grad(set_to_none)

    def touched_rows(self) -> dict[str, Tensor]:
        """Rows (ascending) of each table that have ever moved."""
        return {
            name: self.state[table.values]["row_steps"].nonzero().flatten() for name, table in self.tables.items()
        }


class NaturalRowOptimizer(SparseRowOptimizer):
    """Moves the rows that `curvatures` has, by the natural gradient.

    The learning rate is the size of a step: one of them alone changes the predictions, on generic text and (by
    `new_text_weight`) on the new, by about `lr**2 / 2` nats a token and table, by the curvature's estimate.
    """

    def __init__(
        self,
        tables: dict[str, ValueTable],
        backgrounds: dict[str, Background],
        settings: MemorySettings,
        lr: float,
        curvatures: dict[str, Curvature],
    ) -> None:
        super().__init__(tables, backgrounds, settings, lr)
        self.curvatures = curvatures

    def _choose(self, name: str) -> Tensor:
        return self.curvatures[name].rows

    def _direction(self, name: str, rows: Tensor, gradients: Tensor) -> Tensor:
        solved = self.curvatures[name].solve(gradients)
        square = (gradients * solved).sum().clamp_min(0)  # twice the disturbance by `solved`
        return solved / self._running_root(name, rows.new_zeros(1), square[None])


def best_slots(
    settings: MemorySettings, slots: Tensor, counts: Tensor, background: Background, generator: torch.Generator
) -> Tensor:
    """(t,) the `top_t` best of the slots (U,) that are read `counts` (U,) times; all when the score is `all`."""
    scores = score_slots(settings.slot_score, slots, counts, background, generator)
    limit = len(slots) if settings.slot_score == "all" else min(settings.top_t, len(slots))
    return slots[scores.topk(limit).indices]


def _over_ranks(table: ValueTable, slots: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The same slots and counts on every rank: those of the whole batch."""
    if not _distributed():
        return slots, counts
    dense = torch.zeros(table.num_slots, device=table.values.device)
    dense[slots] = counts.to(dense.dtype)
    dist.all_reduce(dense)
    slots = dense.nonzero().flatten()
    return slots, dense[slots].long()


def _mean_over_ranks(gradients: Tensor) -> Tensor:
    """As data parallelism averages the gradients of ordinary weights."""
    if _distributed():
        dist.all_reduce(gradients)
        gradients /= dist.get_world_size()
    return gradients


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
