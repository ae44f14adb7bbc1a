"""Two models item by item: hand arithmetic, and intervals that cover what they say on simulated items."""

import math

import numpy as np
import pytest
from scipy import stats

from active_reading.eval.paired import compare, mcnemar, mean_difference, mean_of_differences

NAMES = ("base", "naive-full")


def asked(question: str, right: bool, f1: float = 0.0, answer_nll: float = 1.0) -> dict[str, object]:
    scores = {"f1": 1.0 if right else f1, "exact_match": float(right), "answer_nll": answer_nll}
    return {"question": question, "answers": ["x"], **scores}


def test_gained_kept_and_lost_are_counted_by_question_in_any_order():
    before = [asked("a", True), asked("b", True), asked("c", False), asked("d", False), asked("e", False, f1=0.9)]
    after = [asked("e", True), asked("d", True), asked("c", False, f1=0.8), asked("b", False), asked("a", True)]
    found = compare(before, after, NAMES)
    assert {key: found[key] for key in ("n", "gained", "kept", "lost")} == {
        "n": 5,
        "gained": 2,
        "kept": 1,
        "lost": 1,
    }
    assert found["metrics"]["exact_match"]["mean"] == pytest.approx(1 / 5)
    assert found["metrics"]["f1"]["mean"] == pytest.approx((0 - 1 + 0.8 + 1 + 0.1) / 5)
    assert found["p_value"] == 1.0


def test_texts_are_compared_by_their_nll_alone():
    before = [{"text": "a", "nll": 1.0}, {"text": "b", "nll": 3.0}]
    after = [{"text": "b", "nll": 3.5}, {"text": "a", "nll": 1.1}]
    found = compare(before, after, NAMES)
    assert found.keys() == {"n", "metrics"}
    assert found["metrics"].keys() == {"nll"}
    assert found["metrics"]["nll"]["mean"] == pytest.approx(0.3)


def test_scores_of_the_harness_are_compared_where_every_item_has_them():
    before = [{"text": "a", "acc": 1.0, "bits_per_byte": 1.0, "exact_match,all": 0.0, "ppl": 3.0, "acc_norm": None}]
    after = [{"text": "a", "acc": 0.0, "bits_per_byte": 1.5, "exact_match,all": 1.0, "ppl": 4.0, "acc_norm": 1.0}]
    found = compare(before, after, NAMES)
    assert {key: change["mean"] for key, change in found["metrics"].items()} == {
        "acc": -1.0,
        "bits_per_byte": 0.5,
        "exact_match,all": 1.0,
    }, "of what has no known better side, and of what an item lacks, nothing is told"


def test_the_interval_by_hand():
    """Differences 1, 2, 3: mean 2, variance 1, error 1 / sqrt(3); t for two degrees of freedom is 4.303."""
    found = mean_difference([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    assert found["mean"] == pytest.approx(2.0)
    assert found["se"] == pytest.approx(1 / math.sqrt(3))
    assert (found["low"], found["high"]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)


def test_one_item_says_nothing_of_its_spread():
    assert mean_difference([1.0], [3.0]) == {"mean": 2.0, "se": None, "low": None, "high": None}
    parts = [(1, mean_difference([1.0], [3.0])), (2, mean_difference([1.0, 2.0], [1.0, 3.0]))]
    assert mean_of_differences(parts) == {"mean": 1.25, "se": None, "low": None, "high": None}


def test_items_that_did_not_change_have_an_interval_of_no_width():
    found = mean_difference([1.0, 2.0], [1.0, 2.0])
    assert found == {"mean": 0.0, "se": 0.0, "low": 0.0, "high": 0.0}
    assert mean_of_differences([(2, found), (2, found)]) == found


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    """1,000 simulations of 20 items whose difficulty both models share: 93 to 97 % at nominal 95 %."""
    chooser = np.random.default_rng(0)
    covered, independent = 0, 0
    for _ in range(1000):
        difficulty = chooser.normal(3, 2, 20)
        before = difficulty + chooser.normal(0, 0.5, 20)
        after = difficulty + 0.3 + chooser.normal(0, 0.5, 20)
        found = mean_difference(before.tolist(), after.tolist())
        covered += found["low"] <= 0.3 <= found["high"]
        width = math.hypot(before.std(ddof=1), after.std(ddof=1)) / 20**0.5
        independent += abs((after - before).mean() - 0.3) <= 2 * width
    assert 930 <= covered <= 970
    assert independent > 990, "what was done before was far too wide"


def test_the_interval_of_a_mean_over_sets_covers_as_often_as_it_says():
    """Sets of unequal size and spread, the smallest the noisiest."""
    chooser = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        sets = [
            chooser.normal(mean, spread, n) for mean, spread, n in ((0.1, 1.0, 8), (0.2, 0.5, 24), (0.6, 0.2, 40))
        ]
        parts = [(len(values), mean_difference([0.0] * len(values), values.tolist())) for values in sets]
        found = mean_of_differences(parts)
        covered += found["low"] <= 0.3 <= found["high"]
    assert 930 <= covered <= 970


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [(0, 0, 1.0), (1, 1, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (9, 1, 2 * (1 + 10) / 1024)],
)
def test_mcnemar_by_hand(gained, lost, p_value):
    assert mcnemar(gained, lost) == pytest.approx(p_value)


def test_mcnemar_calls_chance_a_difference_at_most_as_often_as_it_says():
    chooser = np.random.default_rng(2)
    gained = chooser.binomial(30, 0.5, 1000)
    assert sum(mcnemar(int(count), 30 - int(count)) < 0.05 for count in gained) <= 70
    assert mcnemar(20, 4) == pytest.approx(2 * stats.binom.cdf(4, 24, 0.5))


def test_other_items_are_refused_saying_which():
    before = [asked("Who?", True), asked("When?", True)]
    after = [asked("Who?", True), asked("Where?", True), asked("Why?", True)]
    message = (
        r"base and naive-full were not asked the same: 1 only of base \(the first: 'When\?', answers \['x'\]\); "
        r"2 only of naive-full \(the first: 'Where\?', .*: evaluate both on the same items"
    )
    with pytest.raises(ValueError, match=message):
        compare(before, after, NAMES)
    with pytest.raises(ValueError, match="2 only of base"):
        compare(before, [], NAMES)
    with pytest.raises(
        ValueError, match=r"1 only of base .*'Who\?', answers \['x'\].*1 only of naive-full .*\['y'\]"
    ):
        compare(before[:1], [{**before[0], "answers": ["y"]}], NAMES)
    with pytest.raises(ValueError, match="have no items to compare"):
        compare([], [], NAMES)
