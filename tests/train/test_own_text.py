"""A model's own text: as much as is asked for, its own words, the same with the same seed."""

import pytest
import torch

from active_reading.train import own_text
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.own_text import EXAMPLES, write_own_text


def test_as_many_texts_as_are_asked_for_and_the_same_again(tiny_model, monkeypatch):
    monkeypatch.setattr(own_text, "AT_ONCE", 3)
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    texts = write_own_text(model, tokenizer, 5, seed=1)
    assert len(texts) == 5
    assert len(set(texts)) == 5
    assert all(text.startswith("Question:") for text in texts)
    assert not any(question in text for text in texts for question, _ in EXAMPLES)
    assert texts == write_own_text(model, tokenizer, 5, seed=1)
    assert texts != write_own_text(model, tokenizer, 5, seed=2)


def test_other_draws_of_the_process_stay_what_they_would_have_been(tiny_model):
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    write_own_text(model, tokenizer, 2, seed=1)
    assert torch.equal(torch.rand(3), wanted)


def test_a_model_without_room_for_the_examples_is_refused(tiny_model):
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    model.config.max_position_embeddings = 20
    with pytest.raises(ValueError, match="train.memory.own_texts=3: the model's context of 20 tokens.*set it to 0"):
        write_own_text(model, tokenizer, 3, seed=1)
