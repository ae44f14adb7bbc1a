"""Product-key memory: a large table of value rows, of which each token reads a few.

Shapes: B batch, T tokens, D model width, H heads, K slots read per head, n keys per half, N = n * n slots,
d key width of one half, M = B * T positions.
After Berges et al. 2024 (arXiv 2412.09764) and Lample et al. 2019 (arXiv 1907.05242). Differences: keys and
queries are fixed and come from data (see `codebooks`); the values start at zero and are all that learns;
the read is added beside the MLP, without a gate.
The backward pass never builds a gradient of the whole table: it keeps what is needed to compute the
gradient of the few rows that will move (`row_gradients`).
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
    mask: Tensor | None  # (M,) bool, False on padding


class ProductKeyMemory(nn.Module):
    """`forward(x)` maps hidden states (B, T, D) to the memory's contribution (B, T, D)."""

    query_mean: Tensor
    query_weight: Tensor
    keys: Tensor

    def __init__(self, width: int, num_keys: int, num_heads: int, top_k: int, key_width: int) -> None:
        super().__init__()
        if top_k > num_keys:
            raise ValueError(f"memory.top_k={top_k} must not exceed memory.num_keys={num_keys}")
        self.num_keys, self.num_heads, self.top_k, self.key_width = num_keys, num_heads, top_k, key_width
        self.register_buffer("query_mean", torch.zeros(width))
        self.register_buffer("query_weight", torch.zeros(width, num_heads * 2 * key_width))
        self.register_buffer("keys", torch.zeros(num_heads, 2, num_keys, key_width))
        self.values = nn.Parameter(torch.zeros(num_keys * num_keys, width))
        self.token_mask: Tensor | None = None  # (B, T_total), set before each forward pass of the model
        self.reads: list[Read] = []  # one per backward pass since the last step

    @property
    def num_slots(self) -> int:
        return self.num_keys * self.num_keys

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            slots, weights = self.lookup(flat.float())
            read = _ReadValues.apply(self.values, weights, slots, self)
        return read.to(x.dtype).view_as(x)

    def queries(self, x: Tensor) -> Tensor:
        """(M, D) -> (M, H, 2, d): centred, whitened and rotated hidden states."""
        projected = (x - self.query_mean) @ self.query_weight
        return projected.view(-1, self.num_heads, 2, self.key_width)

    def lookup(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The K best slots of each head, exactly, and their softmax weights: both (M, H*K).

        A slot (i, j) scores `s1[i] + s2[j]`, so the best K of all N are among the best K x best K.
        """
        queries = self.queries(x)
        # Minus half the squared distance to the key, up to a constant per query.
        scores = torch.einsum("mhsd,hsnd->mhsn", queries, self.keys) - 0.5 * self.keys.square().sum(-1)
        best, index = scores.topk(self.top_k, dim=-1)  # (M, H, 2, K)
        pairs = best[:, :, 0, :, None] + best[:, :, 1, None, :]  # (M, H, K, K)
        top, flat = pairs.flatten(2).topk(self.top_k, dim=-1)  # (M, H, K)
        rows = index[:, :, 0].gather(-1, flat // self.top_k)
        columns = index[:, :, 1].gather(-1, flat % self.top_k)
        weights = torch.softmax(top / self.key_width**0.5, dim=-1)
        return (rows * self.num_keys + columns).flatten(1), weights.flatten(1)

    def access_counts(self) -> Tensor:
        """(N,) how often each slot was read by real tokens since the last step."""
        counts = torch.zeros(self.num_slots, device=self.values.device)
        for read in self.reads:
            slots = read.slots if read.mask is None else read.slots[read.mask]
            counts += torch.bincount(slots.flatten(), minlength=self.num_slots)
        return counts

    def row_gradients(self, rows: Tensor) -> Tensor:
        """(t, D) exact loss gradients of the value rows `rows` (t,), summed over the reads."""
        position = torch.full((self.num_slots,), -1, dtype=torch.long, device=rows.device)
        position[rows] = torch.arange(len(rows), device=rows.device)
        total = torch.zeros(len(rows), self.values.shape[1], device=rows.device)
        for read in self.reads:
            targets = position[read.slots]  # (M, H*K)
            token, place = (targets >= 0).nonzero(as_tuple=True)
            order = targets[token, place].argsort(stable=True)
            token, place = token[order], place[order]
            lengths = torch.bincount(targets[token, place], minlength=len(rows))
            offsets = lengths.cumsum(0) - lengths
            total += F.embedding_bag(
                token,
                read.output_gradient.float(),
                offsets,
                mode="sum",
                per_sample_weights=read.weights[token, place].float(),
            )
        return total

    def flat_mask(self, num_tokens: int) -> Tensor | None:
        """(M,) padding mask of the current forward pass, or None when nothing is padded."""
        if self.token_mask is None:
            return None
        return self.token_mask[:, -num_tokens:].reshape(-1).bool()


class _ReadValues(torch.autograd.Function):
    """Weighted sum of value rows; the table's gradient is deferred to `row_gradients`."""

    @staticmethod
    def forward(ctx, values: Tensor, weights: Tensor, slots: Tensor, memory: ProductKeyMemory) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weights, slots)
        ctx.memory = memory
        batch = 1 if memory.token_mask is None else memory.token_mask.shape[0]
        ctx.mask = memory.flat_mask(slots.shape[0] // batch)
        return F.embedding_bag(slots, values, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        weights, slots = ctx.saved_tensors
        memory = ctx.memory
        memory.reads.append(Read(slots, weights, gradient, ctx.mask))
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            rows = F.embedding(slots, memory.values.detach())  # (M, H*K, D)
            weight_gradient = torch.einsum("msd,md->ms", rows, gradient)
        return None, weight_gradient, None, None
