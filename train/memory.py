"""Product-key memory: a large table of value rows, of which each token reads a few.

Shapes: B batch, T tokens, D model width, H heads, K slots read per head, n keys per half, N = n * n slots,
d key width of one half, M = B * T positions.
After Berges et al. 2024 (arXiv 2412.09764) and Lample et al. 2019 (arXiv 1907.05242). Differences: keys and
queries are fixed and come from data (see `codebooks`); the values start at zero and are all that learns (first in
`warming`, where it is asked for); the read is added beside the MLP, without a gate.
Autograd never sees the table: the backward pass keeps what is needed to compute the gradient of the few
rows that will move (`ValueTable.row_gradients`), so a step costs the same at a million slots.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Read:
    """One backward pass through a memory: what its value gradients are made of."""

    slots: Tensor  # (M, H*K) int64
    weights: Tensor  # (M, H*K)
    output_gradient: Tensor  # (M, D)
    counted: Tensor | None  # (M,) bool, False where reads do not count (padding, replay); None: all count


class ValueTable(nn.Module):
    """The value rows (N, D) that one memory reads, or several in different layers.

    `learning` says whether backward passes leave their reads in `reads`. The values are no autograd leaf:
    `SparseRowOptimizer` moves them.
    """

    def __init__(self, num_slots: int, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_slots, width), requires_grad=False)
        self.learning = True
        self.reads: list[Read] = []  # one per memory and backward pass since the last step

    @property
    def num_slots(self) -> int:
        return self.values.shape[0]

    def access_counts(self) -> tuple[Tensor, Tensor]:
        """Slots that counted tokens read since the last step, ascending (U,), and how often each (U,)."""
        slots = [read.slots if read.counted is None else read.slots[read.counted] for read in self.reads]
        found = torch.cat([part.flatten() for part in slots]) if slots else self.values.new_zeros(0).long()
        return found.unique(return_counts=True)

    def row_gradients(self, rows: Tensor) -> Tensor:
        """(t, D) exact loss gradients of the value rows `rows` (t,), summed over the reads."""
        ascending, order = rows.sort()
        total = torch.zeros(len(rows), self.values.shape[1], device=rows.device)
        for read in self.reads:
            places = places_among(ascending, read.slots)
            total[order] += sum_by_place(places, read.weights, read.output_gradient.float(), len(rows))
        return total


def places_among(rows: Tensor, slots: Tensor) -> Tensor:
    """Where each slot is among the rows (t,), ascending and at least one; t for a slot that is not among them."""
    found = torch.searchsorted(rows, slots).clamp_max(len(rows) - 1)
    return found.where(rows[found] == slots, len(rows))


def sum_by_place(places: Tensor, weights: Tensor, vectors: Tensor, number: int) -> Tensor:
    """(number, W) for each place below `number`, over the tokens that read it: the sum of weights times vectors.

    places and weights (M, R) of the reads of M tokens, vectors (M, W).
    """
    token, column = (places < number).nonzero(as_tuple=True)
    target = places[token, column]
    by_target = target.argsort(stable=True)
    token, column = token[by_target], column[by_target]
    lengths = torch.bincount(target, minlength=number)
    return F.embedding_bag(
        token,
        vectors,
        lengths.cumsum(0) - lengths,
        mode="sum",
        per_sample_weights=weights[token, column].to(vectors),
    )


class ProductKeyMemory(nn.Module):
    """`forward(x)` maps hidden states (B, T, D) to the memory's contribution (B, T, D)."""

    query_mean: Tensor
    query_weight: Tensor
    keys: Tensor

    def __init__(self, table: ValueTable, num_keys: int, num_heads: int, top_k: int, key_width: int) -> None:
        super().__init__()
        if top_k > num_keys:
            raise ValueError(f"memory.top_k={top_k} must not exceed memory.num_keys={num_keys}")
        if table.num_slots != num_keys**2:
            raise ValueError(f"{num_keys} keys per half address {num_keys**2} slots, not {table.num_slots}")
        width = table.values.shape[1]
        self.num_keys, self.num_heads, self.top_k, self.key_width = num_keys, num_heads, top_k, key_width
        self.register_buffer("query_mean", torch.zeros(width))
        self.register_buffer("query_weight", torch.zeros(width, num_heads * 2 * key_width))
        self.register_buffer("keys", torch.zeros(num_heads, 2, num_keys, key_width))
        self.table = table
        self.enabled = True
        self.token_mask: Tensor | None = None  # (B, T_total), tokens that count; set before each forward pass

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            slots, weights = self.lookup(flat.float())
            # Something must ask for a gradient, or nothing below would run in the backward pass.
            anchor = flat.new_zeros((), requires_grad=self.table.learning)
            counted = self.flat_mask(x.shape[1])
            read = _ReadValues.apply(anchor, weights.to(self.table.values.dtype), slots, counted, self.table)
        return read.to(x.dtype).view_as(x)

    def queries(self, x: Tensor) -> Tensor:
        """(M, D) -> (M, H, 2, d): centred, half whitened and rotated hidden states (see `codebooks`)."""
        projected = (x - self.query_mean.to(x.dtype)) @ self.query_weight.to(x.dtype)
        return projected.view(-1, self.num_heads, 2, self.key_width)

    def lookup(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The K best slots of each head, exactly, and their softmax weights: both (M, H*K).

        A slot (i, j) scores `s1[i] + s2[j]`, so the best K of all N are among the best K x best K. In
        the precision of `x` (fp32 in `forward`), also where the whole model was cast to less.
        """
        queries, keys = self.queries(x), self.keys.to(x.dtype)
        # Minus half the squared distance to the key, up to a constant per query.
        scores = torch.einsum("mhsd,hsnd->mhsn", queries, keys) - 0.5 * keys.square().sum(-1)
        best, index = scores.topk(self.top_k, dim=-1)  # (M, H, 2, K)
        pairs = best[:, :, 0, :, None] + best[:, :, 1, None, :]  # (M, H, K, K)
        top, flat = pairs.flatten(2).topk(self.top_k, dim=-1)  # (M, H, K)
        rows = index[:, :, 0].gather(-1, flat // self.top_k)
        columns = index[:, :, 1].gather(-1, flat % self.top_k)
        weights = torch.softmax(top / self.key_width**0.5, dim=-1)
        return (rows * self.num_keys + columns).flatten(1), weights.flatten(1)

    def flat_mask(self, num_tokens: int) -> Tensor | None:
        """(M,) which tokens of the current forward pass count, or None when all do."""
        if self.token_mask is None:
            return None
        return self.token_mask[:, -num_tokens:].reshape(-1).bool()


class _ReadValues(torch.autograd.Function):
    """Weighted sum of value rows; the table's gradient is deferred to `ValueTable.row_gradients`."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, anchor: Tensor, weights: Tensor, slots: Tensor, counted: Tensor | None, table: ValueTable
    ) -> Tensor:
        ctx.save_for_backward(weights, slots)
        ctx.counted, ctx.table = counted, table
        return F.embedding_bag(slots, table.values, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        weights, slots = ctx.saved_tensors
        table: ValueTable = ctx.table
        if table.learning:
            table.reads.append(Read(slots, weights, gradient, ctx.counted))
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(gradient, table.values, slots)
        return None, weight_gradient, None, None, None


def _weight_gradient(gradient: Tensor, values: Tensor, slots: Tensor) -> Tensor:
    """(M, H*K) product of each output gradient with the rows it read, without gathering (M, H*K, D) rows."""
    positions, reads = slots.shape
    offsets = torch.arange(0, positions * reads, reads, device=slots.device)
    bags = torch.arange(positions, device=slots.device).repeat_interleave(reads)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        gradient.contiguous(), values, slots.flatten(), offsets, bags, 0
    )
    return flat.view(positions, reads)
