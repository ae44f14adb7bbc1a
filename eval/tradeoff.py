"""Learning against forgetting over several models: which are beaten by none, and what each loses at one score.

Learned is better higher, lost better lower; both are changes against the base.
NOT covered: which learning rates are worth trying.
"""

from collections.abc import Sequence
from typing import Any

from active_reading.eval.matched import best_learned, lost_at
from active_reading.eval.paired import mean_difference


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (learned, lost) that no other one beats in one without losing in the other."""
    return [
        place
        for place, (learned, lost) in enumerate(points)
        if not any(more >= learned and less <= lost and (more, less) != (learned, lost) for more, less in points)
    ]


def matched_rows(runs: Sequence[tuple[str, Any, float, float]]) -> tuple[float, list[dict[str, Any]]]:
    """What each method lost by the time it had learned what all of them reach, and that score.

    `runs` are (method, seed, learned, lost), one a model. The models of a method and seed form its curve, from
    (0, 0), in the order of what they learned; one that unlearned is none of its points. Returns the score and per
    method `method`, `models`, `seeds`, and `lost` with `mean` and, over seeds, its 95 % interval (`low`, `high`;
    None with one seed). A method that learned nothing is left out; the score is 0 when none learned.
    """
    curves: dict[str, dict[Any, list[tuple[float, float]]]] = {}
    for method, seed, learned, lost in runs:
        curves.setdefault(method, {}).setdefault(seed, []).append((learned, lost))
    able = {
        method: [sorted(point for point in points if point[0] > 0) for points in seeds.values()]
        for method, seeds in curves.items()
        if min(best_learned([points]) for points in seeds.values()) > 0
    }
    target = min((min(best_learned([c]) for c in found) for found in able.values()), default=0.0)
    rows = []
    for method, found in able.items():
        losses = [loss for curve in found if (loss := lost_at(curve, target)) is not None]
        rows.append(
            {
                "method": method,
                "models": sum(map(len, found)),
                "seeds": len(found),
                "lost": mean_difference([0.0] * len(losses), losses),
            }
        )
    return target, sorted(rows, key=lambda row: row["lost"]["mean"])
