"""The Pareto front and the matched table, by hand arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_reading.eval.tradeoff import matched_rows, pareto_front

POINTS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=8)


def test_a_point_that_another_one_beats_is_not_on_the_front():
    assert pareto_front([(0.0, 0.0), (0.5, 0.1), (0.4, 0.2), (0.5, 0.3), (0.6, 0.3)]) == [0, 1, 4]


@given(POINTS)
def test_the_front_is_never_empty_and_whatever_is_off_it_is_beaten_by_one_on_it(points):
    front = pareto_front(points)
    assert front
    for place, (learned, lost) in enumerate(points):
        on = any(points[f][0] >= learned and points[f][1] <= lost for f in front)
        assert on
        assert place in front or any(points[f] != points[place] for f in front)


def test_rates_of_one_method_are_its_curve_and_seeds_make_the_interval():
    runs = [("full", 0, 1.0, 0.4), ("full", 0, 2.0, 1.0), ("full", 1, 2.0, 0.8), ("memory", 0, 1.5, 0.1)]
    target, (memory, full) = matched_rows(runs)
    assert target == 1.5
    assert (memory["method"], memory["models"], memory["seeds"]) == ("memory", 1, 1)
    assert memory["lost"] == {"mean": pytest.approx(0.1), "se": None, "low": None, "high": None}
    assert (full["models"], full["seeds"]) == (3, 2)
    assert full["lost"]["mean"] == pytest.approx((0.7 + 0.6) / 2)
    assert full["lost"]["low"] < 0.6 < 0.7 < full["lost"]["high"]


def test_a_model_that_unlearned_changes_no_loss_at_the_same_learning():
    runs = [("full", 0, 1.0, 0.2), ("lora", 0, 0.5, 0.1)]
    assert matched_rows([("full", 0, -2.0, 3.0), *runs]) == (0.5, matched_rows(runs)[1])


def test_a_method_that_learned_nothing_has_no_row():
    assert matched_rows([("lora", 0, -0.1, 0.0), ("full", 0, 0.5, 0.2)])[1][0]["method"] == "full"
    assert matched_rows([("lora", 0, -0.1, 0.0)]) == (0.0, [])
    assert matched_rows([]) == (0.0, [])
