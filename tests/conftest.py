"""A tiny random model with a byte-level tokenizer, saved as a Hugging Face folder, for tests of any stage.

Also: caches of models and hashes go to a folder of the test run, never to the user's, and all is computed
in single precision, on machines too where bf16 is fast: tests compare to its rounding.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Read when torch and scikit-learn are imported: threads only wait for each other on tensors this small.
os.environ.setdefault("OMP_NUM_THREADS", "1")


settings.register_profile("no clock", deadline=None)  # no test depends on the speed of the machine
settings.load_profile("no clock")


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACTIVE_READING_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def single_precision() -> Iterator[None]:
    import torch

    from active_reading.train import precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "compute_dtype", lambda: torch.float32)
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Every byte is a token, so that any text comes back as it was; `<|end|>` ends and pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """Folder of a random Llama of four layers, width 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,  # decisive enough that greedy answers do not hang on rounding
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
