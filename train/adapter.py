"""The memory adapter: memories beside the MLPs of a Hugging Face decoder, saved as a small folder.

`attach_memory` adds them (the model's output is unchanged, bit for bit, while the values are zero),
`save_memory` and `load_memory` write and read `memory_config.json` and `memory.safetensors`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from active_reading.train.memory import ProductKeyMemory
from active_reading.train.settings import MemorySettings

CONFIG_NAME = "memory_config.json"
WEIGHTS_NAME = "memory.safetensors"


def attach_memory(model: Any, settings: MemorySettings) -> dict[int, ProductKeyMemory]:
    """Add memories to `model` in place; returns them by layer.

    Raises ValueError for a layer that the model does not have, and a model without a recognised MLP.
    """
    mlps = find_mlps(model)
    if bad := [layer for layer in settings.layers if not 0 <= layer < len(mlps)]:
        raise ValueError(f"train.memory.layers has {bad[0]}, and the model has layers 0 to {len(mlps) - 1}")
    width = model.config.get_text_config().hidden_size
    key_width = settings.key_width or max(1, width // (2 * settings.num_heads))
    memories = {
        layer: ProductKeyMemory(width, settings.num_keys, settings.num_heads, settings.top_k, key_width)
        for layer in settings.layers
    }
    device = next(model.parameters()).device
    model.memories = nn.ModuleDict({str(layer): memory.to(device) for layer, memory in memories.items()})
    model.register_forward_pre_hook(_pass_mask, with_kwargs=True)
    for layer, memory in memories.items():
        mlps[layer].register_forward_hook(_add_beside(memory))
    return memories


def find_mlps(model: Any) -> list[nn.Module]:
    """The MLP of every decoder layer, in order.

    Raises ValueError when the model has no list of layers with an `mlp` each.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            mlps = [getattr(layer, "mlp", None) for layer in module]
            if all(isinstance(mlp, nn.Module) for mlp in mlps):
                return [mlp for mlp in mlps if mlp is not None]
    raise ValueError(f"{type(model).__name__} has no decoder layers with an 'mlp': memory cannot be added")


def save_memory(
    model: Any, folder: Path, base_model: str, settings: MemorySettings, counts: dict[int, Tensor]
) -> None:
    """Write the adapter; `counts` are the background counts (N,) of each layer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.memories.state_dict().items()}
    tensors |= {f"{layer}.background_counts": count.cpu().contiguous() for layer, count in counts.items()}
    save_file(tensors, folder / WEIGHTS_NAME)
    config = {"base_model": base_model, "memory": settings.model_dump()}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_memory(model: Any, folder: Path) -> None:
    """Attach the memories saved in `folder` to the base model they were trained on."""
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    attach_memory(model, MemorySettings(**config["memory"]))
    tensors = load_file(folder / WEIGHTS_NAME)
    state = {name: tensor for name, tensor in tensors.items() if not name.endswith("background_counts")}
    model.memories.load_state_dict(state)


def _add_beside(memory: ProductKeyMemory) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + memory(args[0])

    return hook


def _pass_mask(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    mask = kwargs.get("attention_mask")
    for memory in model.memories.values():
        memory.token_mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
