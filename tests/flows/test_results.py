"""What the results say of several seeds, from the files of their evaluations."""

import json
from pathlib import Path

import pytest

from active_reading.flows.results import _over_seeds
from active_reading.flows.steps import Step


def evaluation(folder: Path, name: str, losses: list[float]) -> Step:
    place = folder / name
    place.mkdir()
    (place / "samples.jsonl").write_text("", encoding="utf-8")
    rows = [{"set": "general_text", "text": f"text {at}", "nll": loss} for at, loss in enumerate(losses)]
    (place / "retention.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Step(place, "digest", 1.0, {})


def test_seeds_are_compared_with_the_base_and_augmented_data_with_naive(tmp_path):
    losses = {
        "base": [1.0, 2.0],
        "naive-full-seed0": [1.1, 2.2],
        "naive-full-seed1": [1.2, 2.3],
        "augmented-full-seed0": [1.0, 2.0],
        "augmented-full-seed1": [1.0, 2.1],
        "naive-memory": [1.0, 2.0],
    }
    models = [
        {"name": name, "method": name.split("-")[1] if "-" in name else None, "seed": int(name[-1] == "1")}
        for name in losses
    ]
    found = _over_seeds(models, {name: evaluation(tmp_path, name, values) for name, values in losses.items()})
    assert [(each["before"], each["after"], each["seeds"]) for each in found] == [
        ("base", "naive-full", 2),
        ("base", "augmented-full", 2),
        ("naive-full", "augmented-full", 2),
    ]
    changes = [each["sets"]["general_text"]["metrics"]["nll"]["mean"] for each in found]
    assert changes == pytest.approx([0.2, 0.025, -0.175])


def test_one_seed_has_nothing_to_compare(tmp_path):
    model = {"name": "naive-full", "method": "full", "seed": 0}
    assert _over_seeds([model], {"naive-full": evaluation(tmp_path, "naive-full", [1.0])}) == []
