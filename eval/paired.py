"""Two models on the same questions, item by item: what one knows that the other does not, and how sure that is.

Rows are one per item: a question has `question`, `answers`, `f1`, `exact_match` and `answer_nll` (nats per token),
a text has `text` and `nll`, an item of a standard task `text` and the scores of lm-evaluation-harness. Both models'
rows are of the same items, in any order.
NOT covered: intervals over seeds (`seeds.py`); correction for many comparisons. The interval needs means that are
close to normal: where few questions changed from wrong to right or back, trust the test.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats

from active_reading.eval.scores import mean_and_error

METRICS = ("f1", "exact_match", "answer_nll", "nll")
HARNESS_METRICS = ("acc", "acc_norm", "nll_per_byte", "bits_per_byte")
Row = dict[str, Any]


def compare(before: Sequence[Row], after: Sequence[Row], names: tuple[str, str]) -> dict[str, Any]:
    """Every metric's mean change from `before` to `after`; for questions, what was gained, kept and lost too.

    Returns `n` and `metrics` (see `mean_difference`); for questions also `gained`, `kept` and `lost`, how many were
    right by exact match after alone, both times and before alone, and the `p_value` of McNemar's test.
    `names` are the models', for the message. Raises ValueError, naming what differs, when the items do.
    """
    matched = pairs(before, after, names)
    metrics = metrics_of(row for pair in matched for row in pair)
    found: dict[str, Any] = {"n": len(matched)}
    found["metrics"] = {
        key: mean_difference([old[key] for old, _ in matched], [new[key] for _, new in matched]) for key in metrics
    }
    if "exact_match" in metrics:
        right = [(old["exact_match"] == 1.0, new["exact_match"] == 1.0) for old, new in matched]
        found |= {"gained": right.count((False, True)), "kept": right.count((True, True))}
        found |= {"lost": right.count((True, False))}
        found["p_value"] = mcnemar(found["gained"], found["lost"])
    return found


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """The metrics that every row has: ours, and the harness's of which it is known whether more is better."""
    shared = set.intersection(*({key for key, value in row.items() if value is not None} for row in rows))
    of_filters = sorted(key for key in shared if key.startswith("exact_match,"))
    return [key for key in (*METRICS, *HARNESS_METRICS, *of_filters) if key in shared]


def mean_difference(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Mean of `after - before` over items, its standard error, and the 95 % interval of Student's t for pairs.

    Returns `mean`, `se`, `low` and `high`; the last three are None for a single item, which says nothing of its
    spread. Raises ValueError when the lengths differ, and for no items.
    """
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean, error = mean_and_error(differences)
    if len(differences) == 1:
        return {"mean": mean, "se": None, "low": None, "high": None}
    margin = t_quantile(len(differences) - 1) * error
    return {"mean": mean, "se": error, "low": mean - margin, "high": mean + margin}


def t_quantile(freedom: float) -> float:
    """Standard errors on each side of a mean that make a 95 % interval, for these degrees of freedom."""
    return float(stats.t.ppf(0.975, freedom))


def mean_of_differences(parts: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Mean over sets of items of `mean_difference`s, each with its number of items, and its 95 % interval.

    The sets are independent of each other. Degrees of freedom by Satterthwaite (1946, Biometrics Bulletin 2).
    """
    mean = sum(part["mean"] for _, part in parts) / len(parts)
    if any(part["se"] is None for _, part in parts):
        return {"mean": mean, "se": None, "low": None, "high": None}
    variances = [(part["se"] / len(parts)) ** 2 for _, part in parts]
    total = sum(variances)
    spread = sum(variance**2 / (n - 1) for variance, (n, _) in zip(variances, parts, strict=True))
    margin = t_quantile(total**2 / spread) * math.sqrt(total) if spread else 0.0
    return {"mean": mean, "se": math.sqrt(total), "low": mean - margin, "high": mean + margin}


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test: were as many questions gained as lost, but for chance?

    (McNemar 1947, Psychometrika 12.) 1.0 when nothing changed.
    """
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def pairs(before: Sequence[Row], after: Sequence[Row], names: tuple[str, str]) -> list[tuple[Row, Row]]:
    """Rows of the same item, in the order of `before`. Raises ValueError when the items differ."""
    old, new = {item_of(row): row for row in before}, {item_of(row): row for row in after}
    told = []
    for name, mine, other in ((names[0], old, new), (names[1], new, old)):
        alone = [item for item in mine if item not in other]
        if alone:
            text, answers = alone[0]
            told.append(f"{len(alone)} only of {name} (the first: {text[:80]!r}, answers {list(answers)})")
    if told:
        raise ValueError(
            f"{names[0]} and {names[1]} were not asked the same: {'; '.join(told)}: evaluate both on the same items"
        )
    if not old:
        raise ValueError(f"{names[0]} and {names[1]} have no items to compare")
    return [(old[item], new[item]) for item in old]


def item_of(row: Row) -> tuple[str, tuple[str, ...]]:
    """What makes two rows the same item: the question and its accepted answers, or the text."""
    return row.get("question") or row["text"], tuple(row.get("answers", ()))
