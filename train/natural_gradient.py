"""Natural gradient of value rows: learn the new text by the change that disturbs generic text least.

A token reads `r V` of a table V (N, D), with r (N,) its read weights, and the loss has the gradient g (D,) at
what was read. A small change X of the rows then changes the model's predictions on generic text by about
`tr(X' C X B) / 2` nats a token, with C = E[r r'] and B = E[g g'] over generic tokens: the Fisher information in
its Kronecker-factored form (K-FAC, Martens & Grosse 2015, arXiv 1503.05671, section 3; here with the gradients
of real tokens). For a given disturbance, the change `C^-1 G B^-1` lowers the loss of new texts most, whose
gradient is G (N, D). MEMIT (Meng et al. 2022, arXiv 2210.07229) uses C alone, on the weights of an MLP. A memory
has thousands of read weights where an MLP has its width: far more room that generic text does not use.

What the new text itself reads is added to C, with a weight. What all of it reads (the form of a question) would
else be learned first and most, and is what a model forgets by: its other answers take that form, too. What one fact
alone reads is slowed far less. With the new text's gradients in B as well, this would be the natural gradient of
its own loss.

What was learned in earlier trainings is protected like generic text, and more (`protect_learned`): its tokens are
added to the mean over the generic ones and take no part in it, unless they count once, as those do. Each training
would else weaken what protects generic text and all that was learned before. `damping` times the mean diagonal is
added to B, and to C, there the mean as if all of the background's tokens counted once: a row that no generic token
reads would cost nothing and move without bound, and both means are of a small sample. Damping that grew with every
training would hide what was learned.
M tokens, R reads per token, t rows that move.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from active_reading.train.memory import places_among, sum_by_place
from active_reading.train.slots import Background

Reads = tuple[Tensor, Tensor]  # slots and weights, both (M, R)
BLOCK = 4096  # tokens whose reads are spread out over the t rows at a time


@dataclass
class Curvature:
    """What it costs when rows of one table move; both factors are damped."""

    rows: Tensor  # (t,) ascending
    read_inverse: Tensor  # (t, t) inverse of C, of these rows
    gradient_inverse: Tensor  # (D, D) inverse of B

    def solve(self, gradients: Tensor) -> Tensor:
        """(t, D) `C^-1 G B^-1` of the rows' gradients G (t, D)."""
        return self.read_inverse @ gradients @ self.gradient_inverse


def curvature(
    background: Background,
    rows: Tensor,
    num_heads: int,
    damping: float,
    new_reads: Reads | None = None,
    new_text_weight: float = 0.0,
) -> Curvature:
    """Of the rows (t,) ascending, from the generic reads in `background` and its gradients, B (D, D).

    The read weights of a token that counts once add up to `num_heads`.
    `new_reads` is how the new text reads, which counts `new_text_weight` times as much as generic text.
    Raises ValueError when the background has no reads of generic text, or none with a gradient, and when the
    curvature has too little damping to be inverted.
    """
    weights = background.weights.float()
    times = weights.sum(1) / num_heads  # that a token counts: once if it is generic, otherwise if it was learned
    num_generic = int(((times - 1).abs() < 0.01).sum())  # bf16 adds up to 0.004
    if not num_generic:
        raise ValueError("train.memory.update_rule=natural: it is not known how generic text reads this memory")
    num_slots = len(background.counts)
    # What was learned is added to the mean over generic tokens.
    covariance = read_products((background.slots, background.weights), rows) / num_generic
    # Over all slots, read or not: the mean does not depend on which rows were chosen.
    mean_square = (weights / times[:, None]).square().sum() / (len(weights) * num_slots)
    covariance.diagonal().add_(damping * mean_square.to(covariance))
    if new_reads is not None and new_text_weight:
        covariance += new_text_weight * read_products(new_reads, rows) / len(new_reads[0])
    gradients = background.gradients.to(rows.device, copy=True)
    mean_gradient = gradients.diagonal().mean()
    if not mean_gradient > 0:
        raise ValueError("train.memory.update_rule=natural: generic text has no gradient at this memory")
    gradients.diagonal().add_(damping * mean_gradient)
    try:
        return Curvature(rows, _inverse(covariance), _inverse(gradients))
    except torch.linalg.LinAlgError:
        raise ValueError(
            "train.memory.update_rule=natural: the curvature is too uneven to be inverted: raise "
            f"train.memory.damping={damping}, or lower train.memory.new_text_weight={new_text_weight} or the "
            "protect_learned of the trainings before"
        ) from None


def _inverse(matrix: Tensor) -> Tensor:
    """Of a positive definite matrix; LinAlgError where that is infinite in the matrix's own precision.

    In double precision: the largest and the smallest direction may be five orders of magnitude apart.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix.double())).to(matrix)
    if not inverse.isfinite().all():
        raise torch.linalg.LinAlgError("the inverse is beyond the numbers of the matrix's own precision")
    return inverse


def read_products(reads: Reads, rows: Tensor) -> Tensor:
    """(t, t) sum over tokens of the products of their read weights, for rows (t,) ascending.

    Row i of it: what the tokens that read i read, summed by how much they read i. A token reads few of the rows: a
    product of matrices would be nearly all zeros.
    """
    number = len(rows)
    total = torch.zeros(number, number, device=rows.device)
    for slots, weights in zip(*(part.split(BLOCK) for part in reads), strict=True):
        places = places_among(rows, slots.to(rows))
        weights = weights.to(rows.device, torch.bfloat16).float()  # as a background keeps them
        spread = torch.zeros(len(places), number + 1, device=rows.device)  # the last column: all other rows
        # Several heads may read one row: a few numbers of so few bits have the same sum in any order, on a GPU too.
        spread.scatter_add_(1, places, weights)
        total += sum_by_place(places, weights, spread[:, :-1].contiguous(), number)
    return total
