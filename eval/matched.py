"""Matched learning: what each way of training forgets by the time it has learned the same.

A trajectory is one training run measured several times: points (learned, lost) in the order of its steps,
from (0, 0), the untouched base. Lin et al. 2025 (arXiv 2510.15103) compare this way.
"""

import random
import statistics
from collections.abc import Sequence

Point = tuple[float, float]


def lost_at(trajectory: Sequence[Point], target: float) -> float | None:
    """What was lost when `target` was first learned, interpolated; None when it never was."""
    before: Point = (0.0, 0.0)
    for learned, lost in trajectory:
        if learned >= target:
            share = (target - before[0]) / (learned - before[0]) if learned > before[0] else 1.0
            return before[1] + share * (lost - before[1])
        before = (learned, lost)
    return None


def best_learned(trajectories: Sequence[Sequence[Point]]) -> float:
    """The most that any point of the trajectories learned."""
    return max((learned for trajectory in trajectories for learned, _ in trajectory), default=0.0)


def least_lost(settings: dict[str, list[list[Point]]], target: float) -> tuple[str, float] | None:
    """The setting (its trajectories are its seeds) that loses least, in the mean, at `target`, and how much.

    A setting counts only when every seed of it reaches the target. None when no setting does.
    """
    means = {}
    for name, trajectories in settings.items():
        losses = [loss for trajectory in trajectories if (loss := lost_at(trajectory, target)) is not None]
        if losses and len(losses) == len(trajectories):
            means[name] = statistics.fmean(losses)
    return min(means.items(), key=lambda item: item[1]) if means else None


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], draws: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % bootstrap interval over seeds of mean(ours) / mean(theirs); None with fewer than two seeds each."""
    if min(len(ours), len(theirs)) < 2:
        return None
    chooser = random.Random(seed)

    def drawn_mean(values: Sequence[float]) -> float:
        return statistics.fmean(chooser.choices(values, k=len(values)))

    ratios = sorted(drawn_mean(ours) / drawn_mean(theirs) for _ in range(draws))
    return ratios[int(0.025 * draws)], ratios[int(0.975 * draws) - 1]
