"""What the results say of several seeds, from the files of their evaluations."""

import json
from pathlib import Path

import polars as pl
import pytest

from active_reading.augment.limits import PriceSettings
from active_reading.flows.results import _over_seeds, stage_cost
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


GENERATIONS = {
    "request_id": ["a", "b", "b"],  # the last two are of chunks with the same text
    "prompt_tokens": [3000, 500, 500],
    "completion_tokens": [200, 50, 50],
}


@pytest.mark.parametrize(
    ("prices", "name", "cost"),
    [
        ({}, "generate", None),
        ({}, "train naive-full", None),
        ({"machine_per_hour": 2.0}, "train naive-full", 1.0),
        ({"machine_per_hour": 2.0}, "generate", 1.0),
        ({"prompt_per_million": 2.0, "completion_per_million": 8.0}, "generate", 0.007 + 0.002),
        ({"prompt_per_million": 2.0}, "train naive-full", None),
        ({"machine_per_hour": 2.0, "prompt_per_million": 2.0}, "generate", 1.007),
    ],
)
def test_a_stage_costs_the_machine_s_time_and_generate_each_answer_s_tokens_once(tmp_path, prices, name, cost):
    pl.DataFrame(GENERATIONS).write_parquet(tmp_path / "generations.parquet")
    found = stage_cost(PriceSettings(**prices), name, Step(tmp_path, "digest", 1800.0, {}))
    assert found == pytest.approx(cost) if cost is not None else found is None
