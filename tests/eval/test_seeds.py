"""Changes over seeds and items: hand arithmetic, and intervals that cover what they say on simulated runs."""

import math

import numpy as np
import pytest

from active_reading.eval.paired import mean_difference
from active_reading.eval.seeds import crossed_difference, groups_of, over_seeds

NAMES = ("base", "naive-full")


def test_the_interval_by_hand():
    """Two seeds, three items; mean squares: seeds 6, items 2, rest 0; t with 1 and 2 degrees: 12.706, 4.303."""
    found = crossed_difference([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    assert found["mean"] == pytest.approx(2.0)
    assert found["se"] == pytest.approx(math.sqrt(8 / 6))
    assert found["high"] - 2.0 == pytest.approx(math.sqrt(8 / 6) * (12.7062 * 6 + 4.3027 * 2) / 8, abs=1e-3)
    assert found["low"] == pytest.approx(4.0 - found["high"])


def test_one_seed_or_one_item_is_a_plain_paired_interval():
    values = [0.1, 0.4, -0.2, 0.3]
    plain = mean_difference([0.0] * 4, values)
    assert crossed_difference([values]) == plain
    assert crossed_difference([[value] for value in values]) == plain


def test_seeds_that_agree_on_every_item_leave_the_items_chance():
    values = [0.1, 0.4, -0.2, 0.3]
    plain = mean_difference([0.0] * 4, values)
    assert crossed_difference([values] * 3) == {key: pytest.approx(value) for key, value in plain.items()}


def test_what_never_changes_has_an_interval_of_no_width():
    assert crossed_difference([[0.5] * 3] * 2) == {"mean": 0.5, "se": 0.0, "low": 0.5, "high": 0.5}


@pytest.mark.parametrize(
    ("seeds", "items", "of_seed", "of_item"),
    [
        (3, 40, 0.0, 1.0),
        (3, 140, 1.0, 1.0),
        (3, 140, 0.1, 0.3),
        (3, 140, 0.5, 1.0),
        (5, 140, 0.3, 1.0),
        (3, 24, 0.0, 0.0),
    ],
)
def test_intervals_cover_the_true_mean_as_often_as_they_say(seeds, items, of_seed, of_item):
    """Whether seeds, items, both or neither differ; items are skewed as losses of answers are.

    Where seeds differ less than items, three of them make it a little wide: up to 98 %.
    """
    chooser = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        table = chooser.normal(0.3, 1, (seeds, items)) + chooser.normal(0, of_seed, (seeds, 1))
        table += (chooser.gamma(2, 1, (1, items)) - 2) / math.sqrt(2) * of_item
        found = crossed_difference(table)
        covered += found["low"] <= 0.3 <= found["high"]
    assert 930 <= covered <= 980


def rows(*losses: float) -> list[dict[str, object]]:
    return [{"text": f"text {place}", "nll": loss} for place, loss in enumerate(losses)]


def test_items_are_matched_in_any_order():
    found = over_seeds([rows(1, 2), rows(1, 2)], [rows(2, 4), rows(2, 5)[::-1]], NAMES)
    assert (found["n"], found["seeds"]) == (2, 2)
    assert found["metrics"] == {"nll": crossed_difference([[1, 2], [1, 3]])}


def test_seeds_with_other_items_are_refused():
    with pytest.raises(ValueError, match="the first seed of naive-full and another one were not asked the same"):
        over_seeds([rows(1, 2), rows(1)], [rows(1, 2), rows(1)], NAMES)


def test_trainings_are_of_one_group_when_the_seed_alone_differs():
    def model(name, seed):
        return {"name": name, "method": name.partition("-")[2] or None, "seed": seed}

    names = [("base", None), ("naive-full-seed1-lr0.1", 1), ("naive-full-seed12-lr0.1", 12), ("naive-lora", 0)]
    assert groups_of([model(*each) for each in names]) == {
        "naive-full-lr0.1": {1: "naive-full-seed1-lr0.1", 12: "naive-full-seed12-lr0.1"}
    }
