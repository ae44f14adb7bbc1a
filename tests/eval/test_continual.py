"""The matrix of a sequence of corpora, by hand arithmetic."""

import pytest

from active_reading.eval.continual import continual_scores


def test_the_four_numbers_of_three_corpora():
    matrix = [[0.1, 0.2, 0.0], [0.9, 0.3, 0.0], [0.7, 0.8, 0.1], [0.5, 0.9, 0.6]]
    found = continual_scores(matrix)
    assert found["average"] == pytest.approx(2.0 / 3)
    assert found["backward"] == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert found["forward"] == pytest.approx(((0.3 - 0.2) + (0.1 - 0.0)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.5) + (0.9 - 0.9)) / 2)


def test_one_corpus_has_nothing_to_transfer_to():
    assert continual_scores([[0.1], [0.4]]) == {
        "average": 0.4,
        "backward": None,
        "forward": None,
        "forgetting": None,
    }


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 scores, but 2 corpora"):
        continual_scores([[0.1, 0.2], [0.1], [0.3, 0.4]])
    with pytest.raises(ValueError, match="a matrix of 1 rows"):
        continual_scores([[0.1]])
