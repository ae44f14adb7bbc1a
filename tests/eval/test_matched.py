"""Matched learning by hand arithmetic."""

import math
import random

import pytest

from active_reading.eval.matched import best_learned, interval_of_mean, least_lost, lost_at, ratio_interval


def test_loss_is_interpolated_between_the_points_around_the_target():
    assert lost_at([(1.0, 0.1), (2.0, 0.5)], 1.5) == pytest.approx(0.3)


def test_before_the_first_point_the_base_counts_as_nothing_learned_and_nothing_lost():
    assert lost_at([(2.0, 0.4)], 0.5) == pytest.approx(0.1)


def test_the_first_time_that_the_target_is_learned_counts():
    """A run that falls back and learns again has lost what it had lost the first time."""
    assert lost_at([(2.0, 0.2), (1.0, 0.6), (2.0, 0.9)], 2.0) == pytest.approx(0.2)


def test_a_target_that_is_never_learned_has_no_loss():
    assert lost_at([(1.0, 0.1), (1.4, 0.9)], 1.5) is None
    assert lost_at([], 0.1) is None


def test_a_target_of_nothing_is_learned_at_once():
    assert lost_at([(0.0, 0.3)], 0.0) == pytest.approx(0.3)


def test_the_best_is_over_all_points_of_all_runs():
    assert best_learned([[(1.0, 0.0), (3.0, 0.0)], [(2.0, 0.0)]]) == 3.0
    assert best_learned([]) == 0.0


def test_the_setting_that_loses_least_in_the_mean_of_its_seeds_is_found():
    settings = {"a": [[(1.0, 0.2)], [(1.0, 0.4)]], "b": [[(1.0, 0.1)], [(1.0, 0.7)]]}
    name, loss = least_lost(settings, 1.0) or ("", 0.0)
    assert (name, loss) == ("a", pytest.approx(0.3))


def test_a_setting_of_which_one_seed_does_not_reach_the_target_does_not_count():
    assert least_lost({"a": [[(1.0, 0.0)], [(0.5, 0.0)]]}, 0.9) is None


def test_the_interval_holds_the_ratio_and_needs_two_seeds():
    low, high = ratio_interval([0.19, 0.2, 0.21], [1.0, 1.1, 0.9]) or (0.0, 0.0)
    assert 0.1 < low < 0.2 < high < 0.35
    assert ratio_interval([0.1], [1.0, 1.1]) is None
    assert ratio_interval([0.2, 0.2], [0.4, 0.4]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_a_ratio_to_what_may_be_nothing_has_no_interval():
    assert ratio_interval([0.1, 0.2, 0.3], [-0.1, 0.3, 0.05]) is None


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(seeds):
    chooser = random.Random(0)
    hits = 0
    for _ in range(1000):
        ours = [chooser.gauss(0.05, 0.02) for _ in range(seeds)]
        theirs = [chooser.gauss(0.4, 0.02) for _ in range(seeds)]
        low, high = ratio_interval(ours, theirs) or (-math.inf, math.inf)
        hits += low <= 0.125 <= high
    assert 0.93 <= hits / 1000 <= 0.97


def test_the_interval_of_a_mean_shrinks_with_the_root_of_their_number_on_either_side():
    low, high = interval_of_mean([0.4] * 4, [(0.2, 0.8)] * 4) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.4 - 0.2 / 2), pytest.approx(0.4 + 0.4 / 2))
    assert interval_of_mean([0.3], [(0.1, 0.6)]) == (pytest.approx(0.1), pytest.approx(0.6))
    assert interval_of_mean([0.3, 0.5], [(0.1, 0.6), None]) is None
    assert interval_of_mean([], []) is None
