"""Load what training made: a full model folder, a LoRA adapter, a memory adapter, or an untouched model."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from active_reading.train.adapter import CONFIG_NAME, load_memory


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a model folder or Hugging Face id, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A model from a folder or Hugging Face id; an adapter folder loads on top of the base it names."""
    folder = Path(model)
    if (folder / CONFIG_NAME).is_file():
        base = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["base_model"]
        loaded = load_model(base, dtype)
        load_memory(loaded, folder)
        return loaded
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        return PeftModel.from_pretrained(load_model(base, dtype), folder)
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
