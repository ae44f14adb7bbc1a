"""The memory adapter on small random models of seven families: nothing changes until something is learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from active_reading.train.adapter import attach_memory, find_mlps, load_memory, save_memory
from active_reading.train.settings import MemorySettings

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4}
GROUPED = HEADS | {"num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **GROUPED, **TOKENS),
    "qwen2": Qwen2Config(**SIZES, **GROUPED, **TOKENS),
    "mistral": MistralConfig(**SIZES, **GROUPED, **TOKENS, sliding_window=4),
    "gemma2": Gemma2Config(**SIZES, **GROUPED, **TOKENS, head_dim=8, sliding_window=4),
    "gpt_neox": GPTNeoXConfig(**SIZES, **HEADS, **TOKENS),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, **TOKENS),
    "phi": PhiConfig(**SIZES, **HEADS, **TOKENS),
}
FAMILIES = pytest.mark.parametrize("family", CONFIGS)
SETTINGS = MemorySettings(layers=[0, 2], num_keys=4, num_heads=2, top_k=3, top_t=8)


def random_model(family: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[family]).eval()


def fill(memories: dict[int, Any]) -> None:
    """Give memories random keys, queries and values, large enough to change the output."""
    generator = torch.Generator().manual_seed(1)
    for memory in memories.values():
        for tensor in (memory.query_weight, memory.keys, memory.values.data):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))


def some_tokens(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 64, (rows, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@FAMILIES
def test_a_fresh_memory_leaves_the_logits_bit_identical(family):
    model, ids = random_model(family), some_tokens()
    before = logits(model, ids)
    memories = attach_memory(model, SETTINGS)
    assert torch.equal(logits(model, ids), before)
    fill(memories)
    assert not torch.allclose(logits(model, ids), before, atol=1e-2), "the memories are read"


@FAMILIES
def test_a_memory_adds_its_read_to_the_output_of_its_mlp(family):
    model = random_model(family)
    plain = find_mlps(model)[2]
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    alone = plain(x)
    memories = attach_memory(model, SETTINGS)
    fill(memories)
    assert sorted(memories) == [0, 2]
    torch.testing.assert_close(plain(x), alone + memories[2](x))


@FAMILIES
def test_generation_with_a_cache_writes_what_it_writes_without(family):
    model = random_model(family)
    fill(attach_memory(model, SETTINGS))
    ids = some_tokens()
    mask = torch.ones_like(ids)
    ids[1, :3], mask[1, :3] = 0, 0  # one row is padded on the left
    written = [
        model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert written[0].shape[1] > ids.shape[1]
    assert torch.equal(*written)


@FAMILIES
def test_a_saved_memory_gives_the_same_logits_on_a_fresh_base(family, tmp_path):
    model, ids = random_model(family), some_tokens()
    memories = attach_memory(model, SETTINGS)
    fill(memories)
    counts = {layer: torch.arange(16.0) + layer for layer in memories}
    save_memory(model, tmp_path, "the-base", SETTINGS, counts)

    again = random_model(family)
    load_memory(again, tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))


def test_a_saved_memory_is_small_readable_and_keeps_its_counts(tmp_path):
    from safetensors.torch import load_file

    model = random_model("llama")
    memories = attach_memory(model, SETTINGS)
    save_memory(model, tmp_path, "the-base", SETTINGS, {layer: torch.arange(16.0) + layer for layer in memories})
    assert {path.name for path in tmp_path.iterdir()} == {"memory_config.json", "memory.safetensors"}
    config = json.loads((tmp_path / "memory_config.json").read_text())
    assert config == {"base_model": "the-base", "memory": SETTINGS.model_dump()}
    tensors = load_file(tmp_path / "memory.safetensors")
    assert tensors["2.background_counts"].tolist() == [2.0 + slot for slot in range(16)]
    assert {name.partition(".")[0] for name in tensors} == {"0", "2"}


def test_only_memories_are_added_to_the_weights():
    model = random_model("qwen2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach_memory(model, SETTINGS)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(name.startswith("memories.") for name in after.keys() - before.keys())


def test_key_width_follows_the_model_unless_it_is_given():
    assert attach_memory(random_model("llama"), SETTINGS)[0].key_width == 32 // (2 * 2)
    wide = SETTINGS.model_copy(update={"key_width": 5})
    assert attach_memory(random_model("llama"), wide)[0].key_width == 5


def test_padding_of_a_batch_is_not_counted():
    model = random_model("llama")
    memories = attach_memory(model, SETTINGS)
    fill(memories)
    ids = some_tokens()
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    assert memories[2].access_counts().sum() == (9 + 4) * SETTINGS.num_heads * SETTINGS.top_k


def test_a_layer_that_the_model_lacks_is_named_and_the_model_is_left_as_it_was():
    model = random_model("llama")
    bad = MemorySettings(layers=[0, 3], num_keys=4, top_k=2, top_t=4)
    with pytest.raises(ValueError, match="train.memory.layers has 3, and the model has layers 0 to 2"):
        attach_memory(model, bad)
    assert not hasattr(model, "memories")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"top_t": 17}, r"top_t=17 exceeds the 16 slots \(num_keys squared\)"),
        ({"top_k": 5}, "top_k=5 exceeds num_keys=4"),
        ({"layers": [2, -1]}, "greater than or equal to 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_there_is_a_model(bad, message):
    with pytest.raises(ValueError, match=message):
        MemorySettings(**SETTINGS.model_dump() | bad)


def test_a_model_without_mlps_is_refused_by_name():
    config = OPTConfig(vocab_size=64, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="OPTForCausalLM has no decoder layers with an 'mlp'"):
        attach_memory(model, SETTINGS)


def test_a_folder_without_the_weights_is_an_error_that_names_the_file(tmp_path: Path):
    (tmp_path / "memory_config.json").write_text(
        json.dumps({"base_model": "b", "memory": SETTINGS.model_dump()}), encoding="utf-8"
    )
    with pytest.raises(FileNotFoundError, match="memory.safetensors"):
        load_memory(random_model("llama"), tmp_path)
