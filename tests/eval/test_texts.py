"""Likelihoods of texts against a plain forward pass, forward KL against PyTorch's own, and both from one pass."""

from typing import Any

import pytest
import torch

from active_reading.eval.texts import batched, pad_right, text_scores, token_nll
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.objectives import BaseLogits, token_kl, untouched_logits

TEXTS = ["short one", "a text that is quite a bit longer than the first", "mid size text"]


@pytest.fixture(scope="module")
def tokenizer(tiny_model) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model) -> Any:
    return load_model(tiny_model).eval()


@pytest.fixture(scope="module")
def changed(tiny_model) -> Any:
    other = load_model(tiny_model).eval()
    other.model.embed_tokens.weight.data[5:90] += 0.3
    return other


@torch.no_grad()
def log_chances(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    """(T, V) of one text alone."""
    return torch.log_softmax(model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0].double(), -1)


def nll(model: Any, tokenizer: Any, texts: list[str], size: int, base: BaseLogits | None = None) -> list[float]:
    return [scores.nll for scores in text_scores(model, tokenizer, texts, size, base)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batched_scores_equal_those_of_one_text_at_a_time_without_padding(model, changed, tokenizer, batch_size):
    likely, distances = [], []
    for text in TEXTS:
        base, new = log_chances(model, tokenizer, text), log_chances(changed, tokenizer, text)
        ids = tokenizer(text)["input_ids"]
        likely.append(-sum(float(new[t - 1, ids[t]]) for t in range(1, len(ids))) / (len(ids) - 1))
        distances.append(float((base.exp() * (base - new)).sum(-1)[:-1].mean()))
    found = text_scores(changed, tokenizer, TEXTS, batch_size, untouched_logits(model))
    assert [scores.nll for scores in found] == pytest.approx(likely, rel=1e-4)
    assert [scores.kl for scores in found] == pytest.approx(distances, rel=1e-4)
    assert min(distances) > 0.01


def test_without_a_base_there_is_no_distance_and_from_itself_none(model, tokenizer):
    assert text_scores(model, tokenizer, ["a heron"], 1)[0].kl is None
    assert text_scores(model, tokenizer, ["a heron"], 1, untouched_logits(model))[0].kl == 0.0


def test_long_texts_are_cut(model, tokenizer):
    text = "abcdefghij" * 5
    cut = text_scores(model, tokenizer, [text], 1, max_length=12)[0].nll
    assert cut == pytest.approx(nll(model, tokenizer, [text[:12]], 1)[0], rel=1e-5)


def test_a_text_of_one_token_is_refused_before_the_model_is_run(tokenizer):
    with pytest.raises(ValueError, match="the text 'a' has 1 tokens, and scores need two: leave it out"):
        text_scores(None, tokenizer, ["long enough", "a"], 2)


def test_the_kl_is_the_one_that_pytorch_computes():
    base, model = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=base), torch.distributions.Categorical(logits=model)
    )
    torch.testing.assert_close(token_kl(base, model), expected)


def test_token_nll_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 8.0, 1.0]]))
    torch.testing.assert_close(token_nll(logits, torch.tensor([1, 0])), -torch.log(torch.tensor([0.25, 0.1])))


def test_padding_goes_to_the_right():
    ids, mask = pad_right([[1, 2, 3], [4]], pad_token_id=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_batches_cover_all_items_in_order():
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(batched([], 2)) == []
