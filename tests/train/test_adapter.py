"""The memory adapter on small random models of nine families: nothing changes until something is learned.

Also: a saved memory is small, readable, the same when it is loaded, and refused on another base.
"""

import json
from pathlib import Path

import pytest
import torch
from small_models import (
    FAMILIES,
    GROUPED,
    OWN_OR_SHARED,
    SETTINGS,
    SHARED,
    SIZES,
    TOKENS,
    fill,
    learning_model,
    logits,
    random_model,
    some_tokens,
)
from transformers import AutoModelForCausalLM, GptOssConfig, OPTConfig

from active_reading.train.adapter import (
    attach_memory,
    find_mlps,
    load_memory,
    memory_disabled,
    memory_files,
    spread_layers,
)
from active_reading.train.adapter_files import VERSION, read_adapter, write_adapter
from active_reading.train.settings import MemorySettings
from active_reading.train.slots import Background


@FAMILIES
def test_a_fresh_memory_leaves_the_logits_bit_identical(family):
    model, ids = random_model(family), some_tokens()
    before = logits(model, ids)
    adapter = attach_memory(model, SETTINGS)
    assert torch.equal(logits(model, ids), before)
    fill(adapter)
    assert not torch.allclose(logits(model, ids), before, atol=1e-2), "the memories are read"


@FAMILIES
def test_a_memory_adds_its_read_to_the_output_of_its_mlp(family):
    model = random_model(family)
    plain = find_mlps(model)[2]
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    alone = plain(x)
    adapter = attach_memory(model, SETTINGS)
    fill(adapter)
    assert sorted(adapter.memories) == [0, 2]
    torch.testing.assert_close(plain(x), alone + adapter.memories[2](x))


def test_a_memory_stands_beside_a_mixture_of_experts_that_also_says_what_its_router_chose():
    torch.manual_seed(0)
    config = GptOssConfig(**SIZES, **GROUPED, **TOKENS, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = some_tokens()
    before = logits(model, ids)
    adapter = attach_memory(model, SETTINGS)
    assert torch.equal(logits(model, ids), before)
    fill(adapter)
    assert not torch.allclose(logits(model, ids), before, atol=1e-2), "the memories are read"


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
    model, ids = learning_model(family=family), some_tokens()
    for table in model.memory_adapter.tables.values():
        table.values.copy_(table.values.bfloat16())  # as it is when training ends
    write_adapter(memory_files(model, "the-base"), tmp_path)

    again = random_model(family)
    load_memory(again, tmp_path)
    assert torch.equal(logits(again, ids), logits(model, ids))


@OWN_OR_SHARED
def test_a_loaded_memory_is_the_one_that_was_saved(settings, tmp_path):
    model = learning_model(settings)
    adapter = model.memory_adapter
    for number, (name, table) in enumerate(adapter.tables.items()):
        table.values.copy_(table.values.bfloat16())
        table.values[5 + number :] = 0  # the rest never moved
        adapter.backgrounds[name] = Background(torch.arange(16.0) + number, 7 + number)
    write_adapter(memory_files(model, "the-base"), tmp_path)
    again = load_memory(random_model("llama"), tmp_path)
    assert again.settings == settings
    assert list(again.memories) == [0, 2]
    assert again.names() == adapter.names()
    for layer, memory in adapter.memories.items():
        for name, tensor in memory.state_dict().items():
            assert torch.equal(again.memories[layer].state_dict()[name], tensor), name
    for name, background in adapter.backgrounds.items():
        assert torch.equal(again.backgrounds[name].counts, background.counts)
        assert again.backgrounds[name].num_batches == background.num_batches


def test_a_saved_memory_is_small_readable_and_keeps_its_counts(tmp_path):
    model = random_model("llama")
    adapter = attach_memory(model, SETTINGS)
    for layer in (0, 2):
        adapter.backgrounds[str(layer)] = Background(torch.arange(16.0) + layer, 20)
    adapter.tables["2"].values[[9, 4]] = torch.ones(2, 32)
    files = memory_files(model, "the-base")
    write_adapter(files, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"memory_config.json", "memory.safetensors"}
    config = json.loads((tmp_path / "memory_config.json").read_text())
    base_hash = config.pop("base_hash")
    assert len(base_hash) == 32
    assert config == {"version": VERSION, "base_model": "the-base", "memory": SETTINGS.model_dump()}
    assert [read_adapter(tmp_path).batches(table) for table in ("0", "2")] == [20, 20]
    tensors = read_adapter(tmp_path).tensors
    assert tensors["2.background_counts"].tolist() == [2.0 + slot for slot in range(16)]
    assert {name.partition(".")[0] for name in tensors} == {"0", "2"}
    assert tensors["2.rows"].tolist() == [4, 9]
    assert (tensors["2.values"].shape, tensors["2.values"].dtype) == ((2, 32), torch.bfloat16)
    assert tensors["0.rows"].tolist() == [], "rows of zero take no room"


def test_saved_files_do_not_change_when_the_model_goes_on_learning():
    model = learning_model()
    files = memory_files(model, "the-base")
    before = {name: tensor.clone() for name, tensor in files.tensors.items()}
    for name, table in model.memory_adapter.tables.items():
        table.values.zero_()
        model.memory_adapter.backgrounds[name].add(torch.arange(16))
    assert all(torch.equal(files.tensors[name], tensor) for name, tensor in before.items())
    assert [files.batches(table) for table in ("0", "2")] == [0, 0]


def test_layers_that_share_their_values_have_one_table():
    model = learning_model(SHARED)
    adapter = model.memory_adapter
    assert list(adapter.tables) == list(adapter.backgrounds) == ["shared"]
    assert adapter.names() == {0: "shared", 2: "shared"}
    assert all(memory.table is adapter.tables["shared"] for memory in adapter.memories.values())
    assert not torch.equal(adapter.memories[0].keys, adapter.memories[2].keys), "each has keys of its own"
    assert {name.partition(".")[0] for name in memory_files(model, "b").tensors} == {"0", "2", "shared"}


@FAMILIES
def test_within_memory_disabled_the_model_is_its_base(family):
    ids = some_tokens()
    base = logits(random_model(family), ids)
    model = learning_model(family=family)
    learned = logits(model, ids)
    with memory_disabled(model):
        assert torch.equal(logits(model, ids), base)
    assert torch.equal(logits(model, ids), learned)
    assert not torch.allclose(learned, base, atol=1e-2)


def test_memories_are_back_after_an_error():
    model, ids = learning_model(), some_tokens()
    learned = logits(model, ids)
    with pytest.raises(RuntimeError, match="halfway"), memory_disabled(model):
        raise RuntimeError("halfway")
    assert torch.equal(logits(model, ids), learned)


def test_only_memories_are_added_to_the_weights():
    model = random_model("qwen2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach_memory(model, SETTINGS)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(name.startswith("memories.") for name in after.keys() - before.keys())


def test_where_no_layers_are_named_five_memories_are_spread_over_the_depth():
    assert spread_layers(30) == [3, 9, 15, 21, 27]
    assert [spread_layers(depth) for depth in (1, 3, 6)] == [[0], [0, 1, 2], [0, 1, 3, 4, 5]]
    adapter = attach_memory(random_model("llama"), SETTINGS.model_copy(update={"layers": None}))
    assert list(adapter.memories) == adapter.settings.layers == [0, 1, 2]


def test_key_width_follows_the_model_unless_it_is_given():
    assert attach_memory(random_model("llama"), SETTINGS).memories[0].key_width == 32 // (2 * 2)
    wide = SETTINGS.model_copy(update={"key_width": 5})
    assert attach_memory(random_model("llama"), wide).memories[0].key_width == 5


def test_a_model_with_memories_gets_no_others():
    model = learning_model()
    with pytest.raises(ValueError, match="this LlamaForCausalLM has memories already"):
        attach_memory(model, SETTINGS)


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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    write_adapter(memory_files(learning_model(), "the-base"), tmp_path)
    return tmp_path


def test_another_base_of_the_same_shape_is_refused(saved):
    other = random_model("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[3, 5] += 0.1
    with pytest.raises(
        ValueError, match="was trained on the-base, and the weights of this LlamaForCausalLM are others"
    ):
        load_memory(other, saved)
    assert not hasattr(other, "memories")


def test_a_base_loaded_in_bf16_is_taken_for_the_same(saved):
    half = random_model("llama").bfloat16()
    adapter = load_memory(half, saved)
    assert adapter.tables["0"].values.dtype is torch.float32
    assert torch.isfinite(logits(half, some_tokens())).all()


def test_a_folder_without_the_weights_is_an_error_that_names_the_file(saved):
    (saved / "memory.safetensors").unlink()
    with pytest.raises(ValueError, match="memory.safetensors does not exist"):
        load_memory(random_model("llama"), saved)
