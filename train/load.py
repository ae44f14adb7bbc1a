"""Load what training made: a full model folder, a LoRA adapter, a memory adapter, or an untouched model."""

import gc
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from active_reading.train.adapter import load_memory
from active_reading.train.adapter_files import CONFIG_NAME

LORA_CONFIG_NAME = "adapter_config.json"


def base_of(model: str | Path) -> str | Path:
    """The untouched model behind an adapter folder; any other model is its own base."""
    folder = Path(model)
    for name, key in ((CONFIG_NAME, "base_model"), (LORA_CONFIG_NAME, "base_model_name_or_path")):
        if (folder / name).is_file():
            return str(json.loads((folder / name).read_text(encoding="utf-8"))[key])
    return model


def load_tokenizer(model: str | Path) -> Any:
    """The tokenizer of a model folder or Hugging Face id, with a padding token; an adapter may have its base's.

    Raises ValueError, with the cure, where there is none.
    """
    if not (Path(model) / "tokenizer_config.json").is_file():
        model = base_of(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the model in {model} has no tokenizer that loads: copy tokenizer.json and tokenizer_config.json of "
            f"the model it comes from beside it ({' '.join(str(error).split())[:120]})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: str | Path, dtype: torch.dtype = torch.float32, base: str | Path | None = None) -> Any:
    """A model from a folder or Hugging Face id; an adapter folder loads on top of `base`, or of the one it names.

    Raises ValueError for a memory of another base; a LoRA adapter does not know the weights of its own.
    """
    folder = Path(model)
    if (folder / CONFIG_NAME).is_file():
        loaded = load_model(base or base_of(folder), dtype)
        load_memory(loaded, folder)
        return loaded
    if (folder / LORA_CONFIG_NAME).is_file():
        from peft import PeftModel

        return PeftModel.from_pretrained(load_model(base or base_of(folder), dtype), folder)
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype)


def free_gpu_memory() -> None:
    """Give back what models that are gone have left in torch's cache; nothing without a GPU."""
    gc.collect()
    torch.cuda.empty_cache()
