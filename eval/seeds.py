"""Several seeds of one training on the same items: the mean change, and its interval over seeds AND items.

Every seed answers every item, so that seeds and items are crossed: an item that is hard is hard for all seeds.
S seeds, I items. An interval over items alone calls a lucky seed a finding, one over seeds alone the choice of
questions; a percentile bootstrap draws three seeds from three and is too narrow (`BENCHMARKS.md`).
NOT covered: seeds that were asked different items.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from active_reading.eval.paired import Row, item_of, mean_difference, metrics_of, pairs, t_quantile


def over_seeds(
    before: Sequence[Sequence[Row]], after: Sequence[Sequence[Row]], names: tuple[str, str]
) -> dict[str, Any]:
    """Every metric's mean change from `before` to `after`, each the rows of one seed after the other.

    Returns `n` items, `seeds`, and `metrics` by name (see `crossed_difference`). Raises ValueError, naming what
    differs, when the items do, also from seed to seed.
    """
    found = [
        {item_of(old): (old, new) for old, new in pairs(rows, others, names)}
        for rows, others in zip(before, after, strict=True)
    ]
    for rows in after[1:]:
        pairs(after[0], rows, (f"the first seed of {names[1]}", "another one"))
    metrics = {
        key: crossed_difference([[seed[item][1][key] - seed[item][0][key] for item in found[0]] for seed in found])
        for key in metrics_of(row for seed in found for pair in seed.values() for row in pair)
    }
    return {"n": len(found[0]), "seeds": len(found), "metrics": metrics}


def crossed_difference(differences: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean of differences (S, I), its standard error, and the 95 % interval for other seeds and other items.

    Mean squares of a crossed design give the variance of the mean: (MS_seeds + max(MS_items - MS_rest, 0)) / (S I).
    The rest is not taken from the seeds' part: three seeds often differ less than they should, and the interval
    would forget them. Its t is the mean of both sides' t, weighted by variance (Cochran 1964, Biometrics 20):
    Satterthwaite's degrees of freedom, drawn from the same three seeds, come out too many by chance.
    One seed: over items alone (`paired.mean_difference`). Returns `mean`, `se`, `low` and `high`.
    """
    table = np.asarray(differences, dtype=float)
    seeds, items = table.shape
    if min(seeds, items) == 1:
        return mean_difference([0.0] * table.size, table.ravel().tolist())
    mean = float(table.mean())
    of_seed, of_item = table.mean(1, keepdims=True) - mean, table.mean(0, keepdims=True) - mean
    rest = float(((table - mean - of_seed - of_item) ** 2).sum()) / ((seeds - 1) * (items - 1))
    by_item = max(seeds * float((of_item**2).sum()) / (items - 1) - rest, 0.0)
    by_seed = items * float((of_seed**2).sum()) / (seeds - 1)
    total = by_item + by_seed
    if not total:
        return {"mean": mean, "se": 0.0, "low": mean, "high": mean}
    error = math.sqrt(total / table.size)
    margin = error * (t_quantile(seeds - 1) * by_seed + t_quantile(items - 1) * by_item) / total
    return {"mean": mean, "se": error, "low": mean - margin, "high": mean + margin}


def groups_of(models: Sequence[dict[str, Any]]) -> dict[str, dict[int, str]]:
    """Trainings that differ in their seed alone: the name they share -> seed -> the model's name."""
    found: dict[str, dict[int, str]] = {}
    for model in models:
        if model["method"]:
            shared = model["name"].replace(f"-seed{model['seed']}", "", 1)
            found.setdefault(shared, {})[model["seed"]] = model["name"]
    return {name: seeds for name, seeds in found.items() if len(seeds) > 1}
