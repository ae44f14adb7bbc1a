"""Forward KL against PyTorch's own, and its limits."""

import pytest
import torch

from active_reading.eval.divergence import forward_kl, token_kl
from active_reading.train.load import load_model, load_tokenizer


def test_it_is_the_kl_that_pytorch_computes():
    base, model = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=base), torch.distributions.Categorical(logits=model)
    )
    torch.testing.assert_close(token_kl(base, model), expected)


def test_a_model_is_at_no_distance_from_itself_and_padding_changes_nothing(tiny_model):
    model, tokenizer = load_model(tiny_model).eval(), load_tokenizer(tiny_model)
    assert forward_kl(model, model, tokenizer, ["a heron"], 1) == [0.0]
    other = load_model(tiny_model).eval()
    other.model.embed_tokens.weight.data[5:90] += 0.3
    texts = ["a heron", "a far longer text about a heron, and more"]
    alone = [forward_kl(model, other, tokenizer, [text], 1)[0] for text in texts]
    assert forward_kl(model, other, tokenizer, texts, 2) == pytest.approx(alone, rel=1e-4)
    with pytest.raises(ValueError, match="'a' has 1 tokens"):
        forward_kl(model, other, tokenizer, ["a"], 1)
