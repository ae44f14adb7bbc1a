"""Answers alone are learned where that is asked for, and packed texts teach what padded ones do."""

from typing import Any

import pytest
import torch
from torch import Tensor
from training import EACH_METHOD, TEXTS, read_metrics, train
from transformers import AutoModelForCausalLM, Lfm2Config, MambaConfig, OPTConfig, PretrainedConfig

from active_reading.train import loop
from active_reading.train.batches import collate
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import LearningRates
from active_reading.train.student import check_packing

QUESTIONS = [
    "Question: Who fed the heron?\nAnswer: Old Mrs. Tamsin",
    "Question: What is lazurine, and where does it grow?\nAnswer: a moss",
    "lazurine is a moss",
]
ANSWERS = [" Old Mrs. Tamsin", " a moss", "lazurine is a moss"]


@torch.no_grad()
def summed_loss(model: Any, ids: list[int], num_learned: int) -> float:
    """Of the last `num_learned` tokens, one text alone."""
    chances = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(chances[place - 1, ids[place]].item() for place in range(len(ids) - num_learned, len(ids)))


@EACH_METHOD
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_of_the_answers_alone_when_that_is_asked_for(tiny_model, tmp_path, method, packing):
    """Every text once, in one step; a byte is a token, and the end is one more."""
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    texts = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in QUESTIONS]
    # The last text is no question: all of it is learned but its first token.
    wanted = {"answer": [len(" Old Mrs. Tamsin") + 1, len(" a moss") + 1, len(QUESTIONS[2])]}
    wanted["text"] = [len(text) - 1 for text in texts]
    num_tokens = sum(map(len, texts))
    for question_loss, counts in wanted.items():
        run = train(
            tiny_model,
            method,
            tmp_path / question_loss,
            texts=QUESTIONS,
            num_tokens=num_tokens,
            batch_tokens=num_tokens,
            max_length=99,
            question_loss=question_loss,
            packing=packing,
        )
        assert (run.summary["steps"], run.summary["tokens"]) == (1, num_tokens)
        total = sum(summed_loss(model, ids, count) for ids, count in zip(texts, counts, strict=True))
        assert run.summary["final_loss"] == pytest.approx(total / sum(counts), abs=2e-4)


def test_a_question_without_its_answer_is_not_learned_and_stops_nothing(tiny_model, tmp_path):
    """A round of chunks: 32 tokens of `a`, cut in its question, and the 19 of `c`; `b` is too long for its answer.

    Seven rounds leave 43 tokens: `c` is whole in them, or has the 11 that `a` leaves.
    """
    how = {"question_loss": "answer", "texts": QUESTIONS, "batch_tokens": 32, "groups": ["a", "b", "c"]}
    run = train(tiny_model, "full", tmp_path / "run", num_tokens=400, group_by="chunk", **how)
    assert run.summary["tokens"] in (8 * 19, 7 * 19 + 11), "steps without anything to learn are left out"
    assert run.summary["steps"] == 8
    assert all(0 < line["loss"] < 20 for line in read_metrics(run.folder))
    with pytest.raises(ValueError, match="train.num_tokens=20 leaves no text with anything to learn"):
        train(tiny_model, "full", tmp_path / "none", num_tokens=20, **how | {"texts": QUESTIONS[:2]})
    with pytest.raises(ValueError, match="no text has its answer within train.max_length tokens"):
        train(tiny_model, "full", tmp_path / "cut", max_length=30, **how | {"texts": QUESTIONS[:2]})


@EACH_METHOD
def test_packed_texts_teach_what_padded_ones_do(tiny_model, tmp_path, monkeypatch, method):
    """To 1e-5 in every weight, with replay, answers and the distance to the base in the objective."""
    shapes: set[tuple[int, ...]] = set()

    def watched(*args: Any) -> dict[str, Any]:
        shapes.add(tuple(collate(*args)["input_ids"].shape))
        return collate(*args)

    how = {"num_tokens": 300, "replay_share": 0.2, "kl_weight": 0.5, "question_loss": "answer"}
    how["learning_rates"] = LearningRates(full=1e-3, lora=1e-3, memory=0.05)
    states: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}
    runs = []
    for packing, state in states.items():
        if packing:
            monkeypatch.setattr(loop, "collate", watched)

        def keep(_: int, model: Any, state: dict[str, Tensor] = state) -> None:
            state.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

        folder = tmp_path / str(packing)
        runs.append(train(tiny_model, method, folder, keep, texts=TEXTS + QUESTIONS, packing=packing, **how))
    assert {rows for rows, _ in shapes} == {1}
    assert max(width for _, width in shapes) > 48, "texts together are longer than one may be"
    start = load_model(tiny_model).state_dict()
    assert any(name not in start or not torch.equal(tensor, start[name]) for name, tensor in states[True].items())
    for name, tensor in states[False].items():
        torch.testing.assert_close(states[True][name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    losses = [[line["loss"] for line in read_metrics(run.folder)] for run in runs]
    assert len(losses[0]) > 4
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    assert runs[1].summary["touched_parameters"] == runs[0].summary["touched_parameters"]


RUNS_ON = {
    "places": OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=300),
    "state": MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=300),
    "convolution": Lfm2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.2,  # by default its convolutions say next to nothing before they are trained
        vocab_size=300,
    ),
}


@pytest.mark.parametrize("config", RUNS_ON.values(), ids=RUNS_ON)
def test_packing_is_refused_where_anything_runs_on_from_text_to_text(config: PretrainedConfig):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=f"train.packing: {type(model).__name__} does not keep packed texts apart"):
        check_packing(model)


def test_a_model_that_cannot_be_packed_is_trained_with_padding_only(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    for part in (AutoModelForCausalLM.from_config(RUNS_ON["places"]), tiny_tokenizer):
        part.save_pretrained(tmp_path / "opt")
    with pytest.raises(ValueError, match="train.packing: OPTForCausalLM"):
        train(tmp_path / "opt", "lora", tmp_path / "packed", num_tokens=100, packing=True)
    assert train(tmp_path / "opt", "lora", tmp_path / "padded", num_tokens=100).summary["tokens"] == 100
