"""Sweeps: one training configuration with lists of values -> every combination of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from active_reading.train.settings import Method, TrainSettings, complaint

# Settings that mean something for one method only: the others do not multiply by them.
OF_ONE_METHOD = {
    "learning_rates.full": "full",
    "learning_rates.lora": "lora",
    "learning_rates.memory": "memory",
    "lora": "lora",
    "memory": "memory",
}


@dataclass(frozen=True)
class Variant:
    """One training of a sweep; `label` tells it from the others, and is empty without a sweep."""

    method: Method
    label: str
    settings: TrainSettings


def variants(settings: TrainSettings) -> Iterator[Variant]:
    """Every training that `settings` asks for: each method with every combination of the values swept over.

    Raises ValueError for a value that its setting does not allow.
    """
    for key, swept in settings.sweep.items():
        if not swept:
            raise ValueError(f"train.sweep {key} has no value: give some, or leave it out")
        if key == "background":
            raise ValueError("train.sweep: one background serves all trainings: set train.background")
    for method in settings.methods:
        axes = {key: values for key, values in settings.sweep.items() if _owner(key) in (None, method)}
        for chosen in itertools.product(*axes.values()):
            values: dict[str, Any] = settings.model_dump() | {"sweep": {}}
            for key, value in zip(axes, chosen, strict=True):
                _set(values, key, value)
            label = "".join(
                f"-{_short(key)}{'default' if value is None else value}"
                for key, value in zip(axes, chosen, strict=True)
                if len(axes[key]) > 1
            )
            try:
                yield Variant(method, label, TrainSettings.model_validate(values))
            except ValidationError as error:
                wrong = "; ".join(complaint(detail) for detail in error.errors())
                raise ValueError(f"train.sweep {dict(zip(axes, chosen, strict=True))}: {wrong}") from None


def _owner(key: str) -> str | None:
    return OF_ONE_METHOD.get(key) or OF_ONE_METHOD.get(key.partition(".")[0])


def _short(key: str) -> str:
    return "lr" if key.startswith("learning_rates.") else key.rpartition(".")[2].replace("_", "")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values[part] if isinstance(values.get(part), dict) else {}
    if last not in values or last in ("sweep", "methods", "data"):
        raise ValueError(f"train.sweep: '{key}' is no setting that can be swept over")
    values[last] = value
