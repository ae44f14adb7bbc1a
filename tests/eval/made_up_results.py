"""What the tests of the report share: made-up models and how they compare, and the page of results."""

import math
from pathlib import Path
from typing import Any

from active_reading.eval.changes import pairs_to_compare
from active_reading.eval.report import write_report

HOSTILE = "<script>alert(1)</script>"
DOCUMENT = "# Orsella\n\nOrsella was born in 1921 & named a moss <lazurine>.\n\nShe kept a heron, Admiral.\n"
SPAN = (11, 62)


def fake_model(name: str, f1: float, answer_nll: float, loss: float) -> dict[str, Any]:
    """A model as the evaluate stage gathers it; `loss` is added to every retention NLL of the base."""
    data, _, method = name.partition("-")
    train = {"tokens": 40000, "steps": 40, "seconds": 90.1, "final_loss": 1.2, "trainable_parameters": 9216}
    questions = {"n": 110, "f1": 0.3 - loss / 4, "f1_se": 0.04, "exact_match": 0.25, "exact_match_se": 0.04}
    return {
        "name": name,
        "data": data if method else None,
        "method": method or None,
        "learning_rate": 2e-5 if method else None,
        "seed": 0,
        "train": train if method else None,
        "learning": {"n": 140, "f1": f1, "f1_se": 0.03, "exact_match": f1 / 2, "exact_match_se": 0.02}
        | {"answer_nll": answer_nll, "answer_nll_se": 0.1},
        "retention": {
            "general_questions": questions | {"answer_nll": 2.2 + loss, "answer_nll_se": 0.1},
            "general_text": {"n": 40, "nll": 3.1 + loss, "nll_se": 0.05},
            "docstrings": {"n": 60, "nll": 2.8 + loss, "nll_se": 0.06},
        },
    }


def fake_comparison(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """As if the two models' items were independent; the interval is two standard errors each way."""
    sets = {}
    for name in ("learning", *before["retention"]):
        old, new = ((model["retention"] | {"learning": model["learning"]})[name] for model in (before, after))
        metrics = {}
        for key in [key for key in old if f"{key}_se" in old]:
            mean, se = new[key] - old[key], math.hypot(old[f"{key}_se"], new[f"{key}_se"])
            metrics[key] = {"mean": mean, "se": se, "low": mean - 2 * se, "high": mean + 2 * se}
        sets[name] = {"n": old["n"], "metrics": metrics, "gained": 9, "kept": 7, "lost": 3, "p_value": 0.146}
    return {"before": before["name"], "after": after["name"], "sets": sets}


def fake_comparisons(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [fake_comparison(before, after) for before, after in pairs_to_compare(models)]


def page_of(results: dict[str, Any], folder: Path) -> str:
    return write_report(results, folder / "report").read_text(encoding="utf-8")
