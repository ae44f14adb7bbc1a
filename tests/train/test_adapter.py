"""The memory adapter on small random models of nine families: nothing changes until something is learned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from active_reading.train.adapter import (
    MemoryAdapter,
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
from active_reading.train.sparse_optimizer import SparseRowOptimizer
from active_reading.train.student import check_packing

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4}
GROUPED = HEADS | {"num_key_value_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **GROUPED, **TOKENS),
    "qwen2": Qwen2Config(**SIZES, **GROUPED, **TOKENS),
    "mistral": MistralConfig(**SIZES, **GROUPED, **TOKENS, sliding_window=4),
    "gemma2": Gemma2Config(**SIZES, **GROUPED, **TOKENS, head_dim=8, sliding_window=4),
    "qwen3": Qwen3Config(**SIZES, **GROUPED, **TOKENS, head_dim=8),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        **GROUPED,
        **TOKENS,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, **HEADS, **TOKENS),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, **TOKENS),
    "phi": PhiConfig(**SIZES, **HEADS, **TOKENS),
}
FAMILIES = pytest.mark.parametrize("family", CONFIGS)
SETTINGS = MemorySettings(layers=[0, 2], num_keys=4, num_heads=2, top_k=3, top_t=8)
SHARED = SETTINGS.model_copy(update={"shared_values": True})
OWN_OR_SHARED = pytest.mark.parametrize("settings", [SETTINGS, SHARED], ids=["own", "shared"])


def random_model(family: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[family]).eval()


def fill(adapter: MemoryAdapter) -> None:
    """Give memories random keys, queries and values, large enough to change the output."""
    generator = torch.Generator().manual_seed(1)
    for memory in adapter.memories.values():
        for tensor in (memory.query_weight, memory.keys, memory.table.values.data):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))


def learning_model(settings: MemorySettings = SETTINGS, family: str = "llama") -> Any:
    """A frozen model with memories that say something."""
    model = random_model(family).requires_grad_(False)
    fill(attach_memory(model, settings))
    return model


def backward(model: Any, ids: Tensor, **masks: Tensor) -> None:
    """A loss of all tokens but padding."""
    mask = masks.setdefault("attention_mask", torch.ones_like(ids))
    output = model(input_ids=ids, **masks).logits[mask.bool()]
    (output * torch.linspace(-1, 1, output.shape[-1])).sum().backward()


def some_tokens(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 64, (rows, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


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
    batches = {"0": 20, "2": 20}
    expected = {"base_model": "the-base", "background_batches": batches, "memory": SETTINGS.model_dump()}
    assert config == expected | {"version": VERSION}
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
    assert files.config["background_batches"] == {"0": 0, "2": 0}


def test_layers_that_share_their_values_have_one_table():
    model = learning_model(SHARED)
    adapter = model.memory_adapter
    assert list(adapter.tables) == list(adapter.backgrounds) == ["shared"]
    assert adapter.names() == {0: "shared", 2: "shared"}
    assert all(memory.table is adapter.tables["shared"] for memory in adapter.memories.values())
    assert not torch.equal(adapter.memories[0].keys, adapter.memories[2].keys), "each has keys of its own"
    assert {name.partition(".")[0] for name in memory_files(model, "b").tensors} == {"0", "2", "shared"}


@OWN_OR_SHARED
def test_row_gradients_of_a_model_equal_dense_autograd(settings):
    model, ids = learning_model(settings), some_tokens()
    backward(model, ids)
    adapter = model.memory_adapter
    dense = {name: table.values.detach().clone().requires_grad_() for name, table in adapter.tables.items()}

    def dense_forward(memory: Any, values: Tensor) -> Any:
        def forward(x: Tensor) -> Tensor:
            slots, weights = memory.lookup(x.reshape(-1, 32))
            return (weights[..., None] * values[slots]).sum(1).view_as(x)

        return forward

    for layer, name in adapter.names().items():
        adapter.memories[layer].forward = dense_forward(adapter.memories[layer], dense[name])
    backward(model, ids)
    for name, table in adapter.tables.items():
        assert len(table.reads) == len(adapter.memories) / len(adapter.tables)
        assert table.access_counts()[1].sum() == len(table.reads) * 2 * 9 * 2 * 3
        found = table.row_gradients(torch.arange(16))
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, dense[name].grad, rtol=1e-4, atol=1e-4)


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


@FAMILIES
def test_a_text_behind_another_in_a_packed_row_has_the_logits_that_it_has_alone(family):
    """Two texts that are longer than the sliding windows; where they run on into each other, logits are others."""
    model, ids = learning_model(family=family), some_tokens()
    check_packing(model)
    places = torch.cat([torch.arange(9), torch.arange(9)])[None]
    with torch.no_grad():
        packed = model(input_ids=ids.view(1, 18), position_ids=places, use_cache=False).logits
        running_on = model(input_ids=ids.view(1, 18), use_cache=False).logits
    torch.testing.assert_close(packed.view(2, 9, 64), logits(model, ids), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(running_on[0, 9:], packed[0, 9:], atol=1e-3)


def test_memories_are_back_after_an_error():
    model, ids = learning_model(), some_tokens()
    learned = logits(model, ids)
    with pytest.raises(RuntimeError, match="halfway"), memory_disabled(model):
        raise RuntimeError("halfway")
    assert torch.equal(logits(model, ids), learned)


def test_a_disabled_memory_keeps_no_reads():
    model, ids = learning_model(), some_tokens()
    model.model.embed_tokens.weight.requires_grad_()
    with memory_disabled(model):
        backward(model, ids)
    assert all(table.reads == [] for table in model.memory_adapter.tables.values())


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


def test_padding_of_a_batch_is_not_counted():
    model, ids = learning_model(), some_tokens()
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    for table in model.memory_adapter.tables.values():
        assert table.access_counts()[1].sum() == (9 + 4) * SETTINGS.num_heads * SETTINGS.top_k


def test_a_memory_mask_says_which_tokens_choose_slots_and_changes_no_gradient():
    ids, mask = some_tokens(), torch.ones(2, 9)
    mask[1] = 0  # a row of replay
    plain, masked = learning_model(), learning_model()
    backward(plain, ids)
    backward(masked, ids, memory_mask=mask)
    for name, table in masked.memory_adapter.tables.items():
        whole = plain.memory_adapter.tables[name]
        assert table.access_counts()[1].sum() == 9 * SETTINGS.num_heads * SETTINGS.top_k
        read = table.reads[0].slots[:9].flatten().tolist()
        slots, counts = table.access_counts()
        assert counts.tolist() == [read.count(slot) for slot in slots.tolist()]
        assert torch.equal(table.row_gradients(torch.arange(16)), whole.row_gradients(torch.arange(16)))
    assert torch.equal(logits(masked, ids), logits(plain, ids))


def test_the_mask_of_one_pass_is_not_that_of_the_next():
    model, ids = learning_model(), some_tokens()
    backward(model, ids, memory_mask=torch.zeros(2, 9))
    backward(model, ids[:, :5])
    counts = [table.access_counts()[1].sum() for table in model.memory_adapter.tables.values()]
    assert counts == [10 * SETTINGS.num_heads * SETTINGS.top_k] * 2


@OWN_OR_SHARED
def test_gradient_checkpointing_changes_nothing(settings):
    ids, models = some_tokens(), [learning_model(settings) for _ in range(2)]
    models[1].gradient_checkpointing_enable({"use_reentrant": False})
    for model in models:
        # Something below the layers must learn, or nothing is checkpointed: the reads leave a gradient here too.
        model.model.embed_tokens.weight.requires_grad_()
        backward(model.train(), ids, memory_mask=(torch.arange(9) < 6).expand(2, 9))
    for name, table in models[0].memory_adapter.tables.items():
        other = models[1].memory_adapter.tables[name]
        assert len(other.reads) == len(table.reads)
        assert all(map(torch.equal, other.access_counts(), table.access_counts()))
        rows = torch.arange(16)
        torch.testing.assert_close(other.row_gradients(rows), table.row_gradients(rows))
    gradients = [model.model.embed_tokens.weight.grad for model in models]
    torch.testing.assert_close(*gradients)


def test_a_compiled_model_gives_the_same_logits():
    model, ids = learning_model(), some_tokens()
    expected = logits(model, ids)
    # Only the stage that sees the memories: the ones after it take most of a minute.
    found = logits(torch.compile(model, backend="eager"), ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with memory_disabled(model):
        assert not torch.allclose(found, logits(model, ids), atol=1e-2), "the memories are read"


def test_a_model_that_is_cast_with_its_memories_reads_as_before():
    """A user who loads an adapter may cast the whole model, its keys too."""
    model, ids = random_model("llama"), some_tokens()
    fill(attach_memory(model, SETTINGS))
    plain = logits(random_model("llama").bfloat16(), ids)
    expected, found = logits(model, ids), logits(model.bfloat16(), ids)
    assert found.dtype is torch.bfloat16
    assert (found.float() - expected).norm() < 0.3 * (plain.float() - expected).norm(), "not the base's"
    assert model.generate(ids, max_new_tokens=3).shape[1] == ids.shape[1] + 3


def test_a_memory_learns_on_a_bf16_model():
    model, ids = random_model("llama").bfloat16().requires_grad_(False), some_tokens()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapter = attach_memory(model, SETTINGS.model_copy(update={"top_t": 16}))
    fill(adapter)
    for table in adapter.tables.values():
        table.values.zero_()
    optimizer = SparseRowOptimizer(adapter.tables, adapter.backgrounds, adapter.settings, lr=0.3)
    losses = []
    for _ in range(50):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
        losses.append(output.loss.item())
        output.loss.backward()
        optimizer.step()
    assert output.logits.dtype is torch.bfloat16
    assert all(table.values.dtype is torch.float32 for table in adapter.tables.values())
    assert losses[-1] < losses[0] - 0.4
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


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
