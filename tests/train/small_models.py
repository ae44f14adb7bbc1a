"""What the tests of the adapter share: small random models of nine families, and memories that say something."""

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
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from active_reading.train.adapter import MemoryAdapter, attach_memory
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


def some_tokens(rows: int = 2, length: int = 9) -> Tensor:
    return torch.randint(2, 64, (rows, length), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
