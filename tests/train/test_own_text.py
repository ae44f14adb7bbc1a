"""A model's own text: as much as is asked for, its own words, the same with the same seed."""

import json

import pytest
import torch

from active_reading.eval.questions import evaluation_texts
from active_reading.flows.check import check_background
from active_reading.train import own_text
from active_reading.train.background import SEED, generic_sequences
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.own_text import EXAMPLES, NEW_TOKENS, write_own_text


@pytest.fixture(scope="module")
def writer(tiny_model):
    return load_model(tiny_model), load_tokenizer(tiny_model)


def saying(monkeypatch, *texts):
    """Make every model write these texts, each ended by itself unless it fills all of its room."""

    def sample(model, prompt, number, room, generator):
        end = model.generation_config.eos_token_id
        return torch.tensor([(text + [end] * room)[:room] for text in texts])

    monkeypatch.setattr(own_text, "_sample", sample)


def test_as_many_texts_as_are_asked_for_and_the_same_again(writer, monkeypatch):
    monkeypatch.setattr(own_text, "AT_ONCE", 3)
    texts = write_own_text(*writer, 5, seed=1)
    assert len(set(texts)) == len(texts) == 5
    assert texts == write_own_text(*writer, 5, seed=1)
    assert texts != write_own_text(*writer, 5, seed=2)
    assert write_own_text(*writer, 0, seed=1) == []


def test_what_is_written_is_what_the_model_finds_likely(writer, monkeypatch):
    """Of one choice a token, it is the greedy continuation, whatever the model's own way of decoding is."""
    monkeypatch.setattr(own_text, "CHOICES", 1)
    monkeypatch.setattr(own_text, "NEW_TOKENS", 8)
    model, tokenizer = writer
    prompt = tokenizer("Question:", return_tensors="pt")["input_ids"]
    rows = own_text._sample(model, prompt, 2, 8, torch.Generator().manual_seed(0))
    ids = prompt
    for _ in range(8):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert rows.tolist() == [ids[0, prompt.shape[1] :].tolist()] * 2


def test_other_draws_of_the_process_stay_what_they_would_have_been(writer):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    write_own_text(*writer, 2, seed=1)
    assert torch.equal(torch.rand(3), wanted)


def test_a_text_ends_where_the_model_ended_it_or_else_with_its_last_whole_question(writer, monkeypatch):
    tokenizer = writer[1]
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    ended = encode(" Who?\nAnswer: I\n\nQuestion: You?\nAnswer: yes")
    cut = encode(" Who?\nAnswer: I\n\nQuestion:" + " why" * NEW_TOKENS)
    again = encode(f" {EXAMPLES[0][0]}\nAnswer: me")
    saying(monkeypatch, ended, cut, again, [])
    ended_text, cut_text = write_own_text(*writer, 4, seed=1)
    assert ended_text == "Question: Who?\nAnswer: I\n\nQuestion: You?\nAnswer: yes"
    assert cut_text == "Question: Who?\nAnswer: I"


def test_a_model_without_room_for_the_examples_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(own_text, "AT_ONCE", 2)
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    model.config.max_position_embeddings = 20
    with pytest.raises(ValueError, match="train.memory.own_texts=3: the model's context of 20 tokens.*set it to 0"):
        write_own_text(model, tokenizer, 3, seed=1)


def test_no_example_is_asked_by_the_evaluation(tmp_path):
    lines = [json.dumps({"text": f"Question: {question}\nAnswer: {answer}"}) for question, answer in EXAMPLES]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    check_background(str(tmp_path / "examples.jsonl"), evaluation_texts(None))


def test_it_is_the_base_that_writes_and_not_what_a_memory_made_of_it(tiny_model):
    from training import settings_with

    from active_reading.train.adapter import attach_memory

    settings = settings_with(memory={"own_texts": 2, "background_texts": 1})
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    attach_memory(model, settings.memory)
    wanted = [sequence.ids for sequence in generic_sequences(model, tokenizer, settings)]
    torch.manual_seed(SEED)
    for table in model.memory_adapter.tables.values():
        table.values.data.normal_()
    for memory in model.memories.values():
        memory.keys.normal_()
        memory.query_weight.normal_()
    assert [sequence.ids for sequence in generic_sequences(model, tokenizer, settings)] == wanted
