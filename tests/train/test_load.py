"""What each kind of folder loads as, and the base behind it."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from active_reading.train.adapter import attach_memory, memory_files
from active_reading.train.adapter_files import write_adapter
from active_reading.train.load import base_of, load_model, load_tokenizer
from active_reading.train.settings import MemorySettings


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA and a memory adapter of the tiny model."""
    folder = tmp_path_factory.mktemp("adapters")
    lora = get_peft_model(load_model(tiny_model), LoraConfig(r=2, target_modules="all-linear"))
    lora.save_pretrained(folder / "lora")
    model = load_model(tiny_model)
    attach_memory(model, MemorySettings(layers=[1], num_keys=4, top_k=2, top_t=8)).tables["1"].values.fill_(0.5)
    write_adapter(memory_files(model, str(tiny_model)), folder / "memory")
    return {"lora": folder / "lora", "memory": folder / "memory"}


@pytest.mark.parametrize("kind", ["lora", "memory"])
def test_the_base_of_an_adapter_is_the_model_it_was_made_on(adapters, tiny_model, kind):
    assert str(base_of(adapters[kind])) == str(tiny_model)
    assert str(base_of(str(adapters[kind]))) == str(tiny_model)


@pytest.mark.parametrize("model", ["some-name/on-the-hub", Path("no/such/folder")])
def test_any_other_model_is_its_own_base(model, tiny_model):
    assert base_of(model) == model
    assert base_of(tiny_model) == tiny_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_memory_loads_on_its_base_in_either_format(adapters, dtype):
    model = load_model(adapters["memory"], dtype)
    assert model.model.norm.weight.dtype is dtype
    assert (model.memory_adapter.tables["1"].values == 0.5).all()


def test_a_lora_adapter_loads_on_its_base(adapters):
    assert isinstance(load_model(adapters["lora"]), PeftModel)


@pytest.mark.parametrize("kind", ["lora", "memory"])
def test_an_adapter_loads_on_a_base_that_lies_elsewhere_now(adapters, tiny_model, tmp_path, kind):
    shutil.copytree(adapters[kind], tmp_path / kind)
    for path in (tmp_path / kind).glob("*config.json"):
        path.write_text(path.read_text().replace(str(tiny_model), str(tmp_path / "no-more")))
    ids = torch.arange(6)[None]
    moved = load_model(tmp_path / kind, base=tiny_model)
    assert torch.equal(moved(ids).logits, load_model(adapters[kind])(ids).logits)


def test_a_tokenizer_without_a_padding_token_pads_with_the_end(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token": "<|end|>"', '"pad_token": null'))
    assert load_tokenizer(tmp_path).pad_token == "<|end|>"


def test_a_model_without_a_tokenizer_is_named_with_the_cure(tiny_model, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((tiny_model / "config.json").read_text())
    with pytest.raises(ValueError, match=r"bare has no tokenizer that loads: copy tokenizer\.json"):
        load_tokenizer(tmp_path / "bare")


def test_an_adapter_has_the_tokenizer_of_its_base(adapters, tiny_tokenizer):
    for folder in adapters.values():
        assert load_tokenizer(folder)("cat")["input_ids"] == tiny_tokenizer("cat")["input_ids"]
