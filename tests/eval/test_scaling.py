"""Scaling: one curve for each kind of data and method, over the tokens trained on."""

import pytest

from active_reading.eval.scaling import Trained, scaling_figure


def test_a_curve_needs_two_sizes():
    one = [Trained("naive", "full", 1000, 0.1, 0.01), Trained("augmented", "full", 1000, 0.2, 0.01)]
    assert scaling_figure(one, "F1") is None


def test_sizes_are_in_order_and_seeds_are_one_point_with_their_own_error():
    models = [
        Trained("paraphrase", "full", 4000, 0.4, 0.01),
        Trained("paraphrase", "full", 1000, 0.1, 0.01),
        Trained("paraphrase", "full", 1000, 0.3, 0.01),
        Trained("naive", "lora", 1000, 0.0, 0.02),
    ]
    figure = scaling_figure(models, "F1")
    assert figure is not None
    first, second = figure["data"]
    assert (first["x"], first["y"]) == ([1000, 4000], [pytest.approx(0.2), 0.4])
    assert first["error_y"]["array"] == [pytest.approx(0.1), 0.01]
    assert (first["name"], first["line"]["color"]) == ("paraphrase, full", "#d55e00")
    assert (second["name"], second["x"]) == ("naive, lora", [1000])
    assert first["line"]["dash"] != second["line"]["dash"]


def test_names_are_text():
    models = [Trained("<b>", "full", size, 0.1, 0.0) for size in (1, 2)]
    figure = scaling_figure(models, "F1")
    assert figure is not None
    assert figure["data"][0]["name"] == "&lt;b&gt;, full"
