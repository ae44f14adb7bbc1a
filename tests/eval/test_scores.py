"""Scores against the rules of the official SQuAD evaluation, written out again here, and hand arithmetic."""

import re
import string
from collections import Counter
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.eval.scores import exact_match, f1, mean_and_error, normalize_answer

# Words that the rules treat specially, beside any text at all.
WORDS = st.sampled_from("a an the The AN cat Cat cats 1,921 1921 U.S. - the-cat theatre \u00d6tzi".split())
ANSWERS = st.one_of(st.lists(WORDS, max_size=6).map(" ".join), st.text(max_size=12))


def official_normalize(text: str) -> str:
    def remove_articles(text: str) -> str:
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    def remove_punctuation(text: str) -> str:
        return "".join(letter for letter in text if letter not in set(string.punctuation))

    return white_space_fix(remove_articles(remove_punctuation(text.lower())))


def official_f1(prediction: str, gold: str) -> float:
    predicted, expected = official_normalize(prediction).split(), official_normalize(gold).split()
    if not predicted or not expected:  # the rule of SQuAD 2: nothing matches only nothing
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3))
def test_scores_equal_the_official_rules(answer, accepted):
    assert normalize_answer(answer) == official_normalize(answer)
    assert f1(answer, accepted) == pytest.approx(max(official_f1(answer, gold) for gold in accepted))
    expected = any(official_normalize(answer) == official_normalize(gold) for gold in accepted)
    assert exact_match(answer, accepted) == float(expected)


@pytest.mark.parametrize(
    ("answer", "accepted", "f1_score", "exact"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("in Paris", ["Paris"], 2 / 3, 0.0),  # precision 1/2, recall 1
        ("the red green blue", ["green blue black white"], 4 / 7, 0.0),  # 2 of 3 and 2 of 4
        ("cat cat", ["cat"], 2 / 3, 0.0),  # a word counts as often as it occurs
        ("1,921", ["1921"], 1.0, 1.0),
        ("London", ["Paris", "London, England"], 2 / 3, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),
    ],
)
def test_scores_by_hand(answer, accepted, f1_score, exact):
    assert f1(answer, accepted) == pytest.approx(f1_score)
    assert exact_match(answer, accepted) == exact


def test_no_accepted_answer_scores_zero():
    assert f1("Paris", []) == exact_match("Paris", []) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_mean_and_error_equal_the_textbook(values):
    average, error = mean_and_error(values)
    assert average == pytest.approx(mean(values), abs=1e-9)
    assert error == pytest.approx(stdev(values) / len(values) ** 0.5, rel=1e-6, abs=1e-9)


def test_mean_and_error_by_hand():
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)  # variance 2, over n = 2
    assert mean_and_error([4.0]) == (4.0, 0.0)


def test_no_values_have_no_mean():
    with pytest.raises(ValueError, match="no values to average"):
        mean_and_error([])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_has_no_mean(wrong):
    with pytest.raises(ValueError, match=f"value 2 of 3 is {wrong}"):
        mean_and_error([1.0, wrong, 2.0])
