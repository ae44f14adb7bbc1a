"""Keys from data: codebooks that spread ordinary text evenly over the slots.

Hidden states of generic text are centred, half whitened, and rotated at random into the heads' query space;
k-means there gives each half-key its codebook. Random keys leave hub slots that every text reads;
these do not.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from active_reading.train.memory import ProductKeyMemory

# Directions with less than this share of the mean variance carry noise and are not blown up by whitening.
MIN_VARIANCE = 1e-3
# How much of the difference between the directions' variances whitening takes away: 1 takes away all of it. The
# widest directions then say no more than the narrowest, and a memory learns less (EXPERIMENTS.md, 2026-11-30).
WHITENING = 0.5


def set_codebooks(memory: ProductKeyMemory, hidden: Tensor, seed: int) -> None:
    """Set the queries and keys of `memory` from hidden states (M, D) of generic text.

    Raises ValueError when there are fewer hidden states than keys.
    """
    if len(hidden) < memory.num_keys:
        raise ValueError(
            f"{len(hidden)} background tokens cannot give {memory.num_keys} keys: "
            "lower train.memory.num_keys or give more background text"
        )
    queries = _set_queries(memory, hidden.float().cpu(), seed).cpu().numpy()
    for head in range(memory.num_heads):
        for half in range(2):
            fitted = KMeans(memory.num_keys, n_init=1, max_iter=15, random_state=seed).fit(queries[:, head, half])
            centers = fitted.cluster_centers_.astype(np.float32)
            memory.keys[head, half].copy_(torch.from_numpy(centers))


def random_codebooks(memory: ProductKeyMemory, hidden: Tensor, seed: int) -> None:
    """Set the queries from hidden states (M, D), and keys at random: the baseline that leaves hub slots."""
    _set_queries(memory, hidden.float().cpu(), seed)
    memory.keys.copy_(torch.randn(memory.keys.shape, generator=torch.Generator().manual_seed(seed + 1)))


def _set_queries(memory: ProductKeyMemory, hidden: Tensor, seed: int) -> Tensor:
    """Half whiten and rotate; returns the queries (M, H, 2, d)."""
    rotation = _rotation(memory, torch.Generator().manual_seed(seed))
    memory.query_mean.copy_(hidden.mean(0))
    memory.query_weight.copy_(_whitening(hidden - hidden.mean(0)) @ rotation)
    return memory.queries(hidden.to(memory.query_mean.device))


def _whitening(centred: Tensor) -> Tensor:
    """(D, D) map to directions whose variances v become `v ** (1 - WHITENING)`, times what makes their mean 1."""
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances = variances.clamp_min(MIN_VARIANCE * variances.mean())
    scale = variances ** (WHITENING / 2)
    return directions / (scale * (variances / scale**2).mean().sqrt())


def _rotation(memory: ProductKeyMemory, generator: torch.Generator) -> Tensor:
    """(D, H*2*d) orthonormal columns, head by head where the model is too narrow for all of them."""
    width, columns = memory.query_weight.shape
    blocks: list[Tensor] = []
    while sum(block.shape[1] for block in blocks) < columns:
        square = torch.randn(width, width, generator=generator)
        blocks.append(torch.linalg.qr(square).Q)
    return torch.cat(blocks, dim=1)[:, :columns]
