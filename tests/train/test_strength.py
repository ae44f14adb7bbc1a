"""A share of what was learned: none of it is the base, all of it the model, and afterwards it is there again."""

import pytest
import torch
from training import EACH_METHOD, logits, train

from active_reading.train.load import load_model
from active_reading.train.strength import at_strength


@EACH_METHOD
def test_a_model_without_what_it_learned_is_its_base_and_with_all_of_it_itself(tiny_model, tmp_path, method):
    model = load_model(train(tiny_model, method, tmp_path / "out").folder).eval()
    trained, untouched = logits(model), logits(load_model(tiny_model).eval())
    found = {}
    for share in (0.0, 0.5, 1.0):
        with at_strength(model, method, str(tiny_model), share):
            found[share] = logits(model)
        assert torch.equal(logits(model), trained), "it is whole again"
    torch.testing.assert_close(found[0.0], untouched)
    torch.testing.assert_close(found[1.0], trained)
    learned = (trained - untouched).abs().mean()
    for end in (trained, untouched):
        assert (found[0.5] - end).abs().mean() > 0.1 * learned, "half of it is neither"


def test_a_model_is_whole_again_after_a_mistake(tiny_model, tmp_path):
    model = load_model(train(tiny_model, "full", tmp_path / "out").folder).eval()
    trained = logits(model)
    with pytest.raises(ZeroDivisionError), at_strength(model, "full", str(tiny_model), 0.5):
        1 / 0  # noqa: B018
    assert torch.equal(logits(model), trained)


@EACH_METHOD
def test_every_share_is_seen_within_one_autocast(tiny_model, tmp_path, method):
    """As `on_step` sees it: casts of the weights are kept for as long as the autocast lasts."""
    model = load_model(train(tiny_model, method, tmp_path / "out").folder).eval()

    def alone(share):
        with torch.autocast("cpu", dtype=torch.bfloat16), at_strength(model, method, str(tiny_model), share):
            return logits(model)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = []
        for share in (0.0, 1.0):
            with at_strength(model, method, str(tiny_model), share):
                within.append(logits(model))
    assert not torch.equal(within[0], within[1])
    for share, found in zip((0.0, 1.0), within, strict=True):
        assert torch.equal(found, alone(share))
