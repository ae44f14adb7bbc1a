"""Scores in a report's results, and how they changed: looked up, never measured.

`results` is the plain dict that `report.py` takes. A change between two models is the mean over items of what each
item changed by (`paired.py`). None stands for a number that was not measured.
"""

import math
from typing import Any, NamedTuple

from active_reading.eval.paired import mean_of_differences

Json = dict[str, Any]


class Score(NamedTuple):
    """A mean, its standard error, and of a change the bounds of its 95 % interval; each may be unknown."""

    value: float | None
    se: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return self.signed("")

    def signed(self, sign: str = "+") -> str:
        error = "" if self.se is None else f" +- {self.se:.3f}"
        return "-" if self.value is None else f"{self.value:{sign}.3f}{error}"

    def is_clear(self) -> bool:
        """A change whose 95 % interval holds no zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def reversed(self) -> "Score":
        """The change the other way round."""
        value, low, high = (None if number is None else -number for number in (self.value, self.high, self.low))
        return Score(value, self.se, low, high)


class Point(NamedTuple):
    """A model on the learning-forgetting plane."""

    name: str
    data: str | None
    method: str | None
    f1: Score
    f1_gain: Score  # rise of F1 against the base
    answer_gain: Score  # fall of the NLL of the gold answers, against the base
    loss: Score  # mean rise of NLL over the retention sets, against the base


def finite(value: Any) -> Any:
    """The same structure in plain JSON types, with None for NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measured(model: Json | None, name: str, key: str) -> Score:
    """One metric of one set: 'learning' (the gold questions) or a retention set."""
    sets = ((model or {}).get("retention") or {}) | {"learning": (model or {}).get("learning")}
    return score_of(sets.get(name), key)


def score_of(block: Json | None, key: str) -> Score:
    """One metric of a summary; a single item says nothing of its spread, so that no error is known."""
    block = block or {}
    return Score(block.get(key), None if block.get("n") == 1 else block.get(f"{key}_se"))


def compared(results: Json, after: Json, before: Json | None) -> Json:
    """What changed from one model to another, by set; nothing when the two were not compared."""
    names = ((before or {}).get("name"), after["name"])
    return next((each["sets"] for each in results["comparisons"] if (each["before"], each["after"]) == names), {})


def change(results: Json, after: Json, before: Json | None, name: str, key: str) -> Score:
    """How one metric of one set changed from one model to another."""
    block = compared(results, after, before).get(name) or {"metrics": {}}
    return as_score(block["metrics"].get(key))


def as_score(found: Json | None) -> Score:
    """A `paired.mean_difference`, or one that was not measured."""
    return Score(*(found[key] for key in ("mean", "se", "low", "high"))) if found else Score(None)


def base_of(models: list[Json]) -> Json | None:
    """The untrained model: the one without a method."""
    return next((model for model in models if model["method"] is None), None)


def pairs_to_compare(models: list[Json]) -> list[tuple[Json, Json]]:
    """(before, after): the base and each model; of each method the best on naive and the best on augmented data."""
    base = base_of(models)
    pairs = [(base, model) for model in models if base and model is not base]
    known = [model for model in models if model["method"] and measured(model, "learning", "f1").value is not None]
    known.sort(key=lambda model: measured(model, "learning", "f1").value or 0)
    best = {(model["method"], model["data"]): model for model in known}
    for method in dict.fromkeys(model["method"] for model in models):
        if (method, "naive") in best and (method, "augmented") in best:
            pairs.append((best[method, "naive"], best[method, "augmented"]))
    return pairs


def forgetting_keys(base: Json | None) -> list[tuple[str, str]]:
    """(set, metric) of what forgetting is the mean of; tasks that have no NLL are not among them."""
    keys = [(name, key) for name in (base or {}).get("retention") or {} for key in ("answer_nll", "nll")]
    return [key for key in keys if measured(base, *key).value is not None]


def forgetting(results: Json, model: Json, base: Json | None) -> Score:
    """Mean rise of NLL over every retention set whose NLL the base was measured on."""
    keys = forgetting_keys(base)
    if model is base:
        return Score(0.0) if keys else Score(None)
    sets = compared(results, model, base)
    parts = [(sets[name]["n"], sets[name]["metrics"][key]) for name, key in keys if name in sets]
    # A mean over fewer sets than the other models have would not be comparable with theirs.
    if not keys or len(parts) < len(keys):
        return Score(None)
    return as_score(mean_of_differences(parts))


def points_of(results: Json) -> list[Point]:
    models = results["models"]
    base, points = base_of(models), []
    for model in models:
        f1, gain = measured(model, "learning", "f1"), change(results, model, base, "learning", "f1")
        fall = change(results, model, base, "learning", "answer_nll").reversed()
        if model is base:  # the origin, which has no error against itself
            gain = fall = Score(None if f1.value is None else 0.0)
        loss = forgetting(results, model, base)
        points.append(Point(model["name"], model["data"], model["method"], f1, gain, fall, loss))
    return points
