"""Matched learning: what each way of training forgets by the time it has learned the same.

A trajectory is one training run measured several times: points (learned, lost) in the order of its steps, or of
growing shares of what it learned, from (0, 0), the untouched base. Lin et al. 2025 (arXiv 2510.15103) compare the
former way.
"""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

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


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval over seeds of mean(ours) / mean(theirs), by Fieller's theorem with Student's t.

    (Fieller 1954, J. Roy. Statist. Soc. B 16; degrees of freedom at the estimate by Satterthwaite 1946, Biometrics
    Bulletin 2. A bootstrap over three seeds covers about 70 %.) None with fewer
    than two seeds each, and when `theirs` is not clearly different from zero: the ratio has no bounds then.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    above, below = statistics.fmean(ours), statistics.fmean(theirs)
    noise_above, noise_below = (statistics.variance(values) / len(values) for values in (ours, theirs))
    if below == 0:
        return None
    parts = noise_above, (above / below) ** 2 * noise_below
    spread = parts[0] ** 2 / (len(ours) - 1) + parts[1] ** 2 / (len(theirs) - 1)
    freedom = sum(parts) ** 2 / spread if spread else min(len(ours), len(theirs)) - 1
    t = float(stats.t.ppf(0.975, freedom))
    # The ratios r with |above - r * below| <= t * sqrt(noise_above + r**2 * noise_below): a quadratic in r.
    square = below**2 - t**2 * noise_below
    if square <= 0:
        return None
    middle = above * below / square
    margin = math.sqrt(max(0.0, middle**2 - (above**2 - t**2 * noise_above) / square))
    return middle - margin, middle + margin


def interval_of_mean(
    values: Sequence[float], intervals: Sequence[tuple[float, float] | None]
) -> tuple[float, float] | None:
    """Of the mean of independent values, each with its own interval, which need not be symmetric.

    Distances to the bounds add up in squares (MOVER; Zou & Donner 2008, Statistics in Medicine 27). None where a
    value has no interval.
    """
    bounds = [interval for interval in intervals if interval is not None]
    if not values or len(bounds) < len(values):
        return None
    below = math.hypot(*(value - low for value, (low, _) in zip(values, bounds, strict=True))) / len(values)
    above = math.hypot(*(high - value for value, (_, high) in zip(values, bounds, strict=True))) / len(values)
    return statistics.fmean(values) - below, statistics.fmean(values) + above
