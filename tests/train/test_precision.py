"""What other tests compute in fp32 works in bf16 too."""

from typing import Any

import pytest
import torch
from training import EACH_METHOD, logits, read_metrics, train
from transformers import LlamaConfig, LlamaForCausalLM

from active_reading.train import precision, student
from active_reading.train.load import load_model
from active_reading.train.precision import compute_dtype


@EACH_METHOD
def test_every_method_learns_in_bf16(monkeypatch, tiny_model, tmp_path, method):
    """With the distance to the base in the objective; the weights that learn stay fp32."""
    monkeypatch.setattr(precision, "compute_dtype", lambda: torch.bfloat16)
    formats: set[torch.dtype] = set()

    def look(step: int, model: Any) -> None:
        formats.update(parameter.dtype for parameter in model.parameters() if parameter.requires_grad)
        if method == "memory":
            formats.update(table.values.dtype for table in model.memory_adapter.tables.values())

    run = train(tiny_model, method, tmp_path / "out", on_step=look, kl_weight=0.01)
    losses = [line["loss"] for line in read_metrics(run.folder)]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert formats == {torch.float32}
    trained = logits(load_model(run.folder))
    assert torch.isfinite(trained).all()
    assert not torch.allclose(trained, logits(load_model(tiny_model)), atol=0.1)


@pytest.mark.parametrize("method", ["lora", "memory"])
def test_frozen_weights_in_bf16_teach_the_same(monkeypatch, tiny_model, tmp_path, method):
    monkeypatch.setattr(precision, "compute_dtype", lambda: torch.bfloat16)
    linear: list[torch.dtype] = []

    def look(step: int, model: Any) -> None:
        linear.extend({p.dtype for name, p in model.named_parameters() if "proj" in name and "lora_" not in name})
        if step == 1:  # beside the forward pass that the Trainer put under autocast
            model.generate(torch.tensor([[1, 2]]), max_new_tokens=2, pad_token_id=0)

    halved = train(tiny_model, method, tmp_path / "halved", on_step=look, kl_weight=0.01)
    assert set(linear) == {torch.bfloat16}
    monkeypatch.setattr(student, "keep_frozen_in_bf16", lambda model: None)
    whole = train(tiny_model, method, tmp_path / "whole", on_step=look, kl_weight=0.01)
    assert set(linear) == {torch.bfloat16, torch.float32}
    assert torch.equal(logits(load_model(halved.folder)), logits(load_model(whole.folder)))


@pytest.mark.parametrize("tied", [True, False])
def test_a_weight_that_an_embedding_reads_too_stays_in_fp32(monkeypatch, tied):
    monkeypatch.setattr(precision, "compute_dtype", lambda: torch.bfloat16)
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, tie_word_embeddings=tied))
    model.requires_grad_(False)
    precision.keep_frozen_in_bf16(model)
    assert model.model.embed_tokens.weight.dtype is torch.float32
    assert model.lm_head.weight.dtype is (torch.float32 if tied else torch.bfloat16)
    assert model.model.norm.weight.dtype is torch.float32
    assert model.model.layers[0].mlp.up_proj.weight.dtype is torch.bfloat16


def test_autocast_follows_the_format(monkeypatch):
    a, cpu = torch.ones(2, 2), torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(precision, "compute_dtype", lambda dtype=dtype: dtype)
        with precision.autocast(cpu):
            assert (a @ a).dtype is dtype


@pytest.mark.parametrize(
    ("can", "fast"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_computes_in_bf16_where_that_is_faster(monkeypatch, can, fast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    assert compute_dtype() is (torch.bfloat16 if fast else torch.float32)  # the real one, not what tests put there
