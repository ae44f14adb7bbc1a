"""Sweeps: every combination once, and settings of one method do not multiply the others."""

import pytest

from active_reading.train.settings import TrainSettings
from active_reading.train.sweep import variants


def test_without_a_sweep_every_method_is_trained_once_as_it_is_set():
    settings = TrainSettings(seed=5)
    found = list(variants(settings))
    assert [(variant.method, variant.label) for variant in found] == [("full", ""), ("lora", ""), ("memory", "")]
    assert {variant.settings.model_dump_json() for variant in found} == {settings.model_dump_json()}


def test_every_combination_becomes_a_variant_with_its_own_label():
    settings = TrainSettings(methods=["memory"], sweep={"seed": [0, 1], "learning_rates.memory": [0.1, 0.2, 0.3]})
    found = {variant.label: variant.settings for variant in variants(settings)}
    assert list(found) == [f"-seed{seed}-lr{rate}" for seed in (0, 1) for rate in (0.1, 0.2, 0.3)]
    assert found["-seed1-lr0.2"].seed == 1
    assert found["-seed1-lr0.2"].learning_rates.memory == 0.2
    assert found["-seed1-lr0.2"].learning_rates.full == settings.learning_rates.full
    assert found["-seed1-lr0.2"].sweep == {}


def test_settings_of_one_method_do_not_multiply_the_others():
    sweep = {"learning_rates.full": [1e-5, 2e-5], "memory.top_t": [10, 20, 30], "lora.rank": [4, 8]}
    counts: dict[str, int] = {}
    for variant in variants(TrainSettings(sweep=sweep)):
        counts[variant.method] = counts.get(variant.method, 0) + 1
    assert counts == {"full": 2, "memory": 3, "lora": 2}


def test_a_value_that_is_none_is_called_the_default():
    settings = TrainSettings(methods=["memory"], sweep={"memory.layers": [None, [2, 4]]})
    assert [variant.label for variant in variants(settings)] == ["-layersdefault", "-layers[2, 4]"]


def test_one_value_is_set_and_needs_no_label():
    (found,) = variants(TrainSettings(methods=["full"], sweep={"kl_weight": [0.5]}))
    assert (found.label, found.settings.kl_weight) == ("", 0.5)


@pytest.mark.parametrize("key", ["rate", "learning_rates.sgd", "memory.layers.first", "methods", "sweep"])
def test_a_key_that_is_no_setting_is_named(key):
    with pytest.raises(ValueError, match=f"train.sweep: '{key}' is no setting that can be swept over"):
        list(variants(TrainSettings(sweep={key: [1]})))


def test_a_value_that_its_setting_does_not_allow_is_refused():
    told = r"train.sweep \{'kl_weight': -1\}: kl_weight=-1: input should be greater than or equal to 0$"
    with pytest.raises(ValueError, match=told):
        list(variants(TrainSettings(sweep={"kl_weight": [-1]})))
    with pytest.raises(ValueError, match="'answer'}: question_loss=answer needs texts_per_sequence=1: with 5"):
        list(variants(TrainSettings(sweep={"question_loss": ["text", "answer"]})))


@pytest.mark.parametrize(
    ("sweep", "told"),
    [({"seed": []}, "train.sweep seed has no value"), ({"background": ["a.jsonl"]}, "one background serves all")],
)
def test_a_sweep_that_cannot_work_is_refused(sweep, told):
    with pytest.raises(ValueError, match=told):
        list(variants(TrainSettings(sweep=sweep)))
