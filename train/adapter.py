"""The memory adapter: memories beside the MLPs of a Hugging Face decoder, saved as a small folder.

`attach_memory` adds them (the model's output is unchanged, bit for bit, while the values are zero),
`memory_files` says what is saved of it (only rows that are not zero), `load_memory` reads it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from active_reading.train.adapter_files import (
    KEY_TENSORS,
    VERSION,
    AdapterFiles,
    pack_reads,
    read_adapter,
    unpack_reads,
)
from active_reading.train.identity import weights_hash
from active_reading.train.memory import ProductKeyMemory, ValueTable
from active_reading.train.settings import MemorySettings
from active_reading.train.slots import Background

STORED = torch.bfloat16  # values are rounded to it when training ends, so that saving loses nothing
NUM_MEMORIES = 5  # where no layers are named; who changes it raises VERSIONS["train"] in flows/stage_files.py


@dataclass
class MemoryAdapter:
    """What `attach_memory` added to a model."""

    settings: MemorySettings
    memories: dict[int, ProductKeyMemory]  # by layer
    tables: dict[str, ValueTable]  # by name: the layer, or "shared"
    backgrounds: dict[str, Background]  # by table

    def names(self) -> dict[int, str]:
        """The table that each layer reads."""
        return {layer: _table_name(layer, self.settings) for layer in self.memories}


def attach_memory(model: Any, settings: MemorySettings) -> MemoryAdapter:
    """Add memories to `model` in place, kept as `model.memory_adapter`.

    Their keys are zero: `background.prepare_memory` or a saved adapter gives them theirs. The adapter's settings
    name the layers, where the given ones leave them open.

    Raises ValueError for a layer that the model does not have, a model without a recognised MLP, and one
    that has memories already.
    """
    if hasattr(model, "memories"):
        raise ValueError(f"this {type(model).__name__} has memories already")
    mlps = find_mlps(model)
    layers = spread_layers(len(mlps)) if settings.layers is None else settings.layers
    settings = settings.model_copy(update={"layers": layers})
    if bad := [layer for layer in layers if not 0 <= layer < len(mlps)]:
        raise ValueError(f"train.memory.layers has {bad[0]}, and the model has layers 0 to {len(mlps) - 1}")
    width = model.config.get_text_config().hidden_size
    key_width = settings.key_width or max(1, width // (2 * settings.num_heads))
    names = {layer: _table_name(layer, settings) for layer in layers}
    tables = {name: ValueTable(settings.num_keys**2, width) for name in dict.fromkeys(names.values())}
    memories = {
        layer: ProductKeyMemory(tables[name], settings.num_keys, settings.num_heads, settings.top_k, key_width)
        for layer, name in names.items()
    }
    device = next(model.parameters()).device
    model.memories = nn.ModuleDict({str(layer): memory.to(device) for layer, memory in memories.items()})
    model.register_forward_pre_hook(_pass_mask, with_kwargs=True)
    for layer, memory in memories.items():
        mlps[layer].register_forward_hook(_add_beside(memory))
    backgrounds = {name: Background(torch.zeros(settings.num_keys**2), 0) for name in tables}
    model.memory_adapter = MemoryAdapter(settings, memories, tables, backgrounds)
    return model.memory_adapter


def spread_layers(depth: int) -> list[int]:
    """The layers, of a model that has `depth`, that get a memory when nobody says which: five evenly, or all.

    Small changes all over the depth teach more than large ones in a few early layers (EXPERIMENTS.md, 2026-11-30).
    """
    count = min(NUM_MEMORIES, depth)
    return [(2 * place + 1) * depth // (2 * count) for place in range(count)]


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


@contextmanager
def memory_disabled(model: Any) -> Iterator[None]:
    """Within it, `model` is its untouched base."""
    memories = list(model.memories.values())
    try:
        for memory in memories:
            memory.enabled = False
        yield
    finally:
        for memory in memories:
            memory.enabled = True


def memory_files(model: Any, base_model: str) -> AdapterFiles:
    """The model's adapter as it is saved; `base_model` is where `load.load_model` finds the base again."""
    adapter: MemoryAdapter = model.memory_adapter
    tensors: dict[str, Tensor] = {}
    for layer, memory in adapter.memories.items():
        tensors |= {f"{layer}.{name}": getattr(memory, name).cpu() for name in KEY_TENSORS}
    for name, table in adapter.tables.items():
        rows = table.values.any(1).nonzero().flatten()
        tensors |= {f"{name}.rows": rows.cpu(), f"{name}.values": table.values.detach()[rows].to("cpu", STORED)}
        background = adapter.backgrounds[name]
        tensors[f"{name}.background_counts"] = background.counts.clone()
        tensors[f"{name}.background_batches"] = torch.tensor(background.num_batches)
        tensors[f"{name}.background_reads"] = pack_reads(background.slots, background.weights, table.num_slots)
        tensors[f"{name}.background_gradients"] = background.gradients.cpu()
    config = {
        "version": VERSION,
        "base_model": base_model,
        "base_hash": weights_hash(model),
        "memory": adapter.settings.model_dump(),
    }
    return AdapterFiles(config, tensors)


def load_memory(model: Any, folder: Path) -> MemoryAdapter:
    """Attach the memories saved in `folder` to the base model they were trained on.

    Raises ValueError for another base, and for files that are missing or damaged.
    """
    files = read_adapter(folder)
    if files.config["base_hash"] != weights_hash(model):
        raise ValueError(
            f"{folder} was trained on {files.config['base_model']}, "
            f"and the weights of this {type(model).__name__} are others"
        )
    adapter = attach_memory(model, MemorySettings(**files.config["memory"]))
    fill_memory(adapter, files)
    return adapter


@torch.no_grad()
def fill_memory(adapter: MemoryAdapter, files: AdapterFiles) -> None:
    """Give memories whose values are zero all that `files` has, of an adapter of the same shape."""
    for layer, memory in adapter.memories.items():
        for name in KEY_TENSORS:
            getattr(memory, name).copy_(files.tensors[f"{layer}.{name}"])
    for name, table in adapter.tables.items():
        table.values[files.tensors[f"{name}.rows"]] = files.tensors[f"{name}.values"].to(table.values)
        adapter.backgrounds[name] = Background(
            files.tensors[f"{name}.background_counts"],
            files.batches(name),
            *unpack_reads(files.tensors[f"{name}.background_reads"], table.num_slots),
            files.tensors[f"{name}.background_gradients"],
        )


def _table_name(layer: int, settings: MemorySettings) -> str:
    return "shared" if settings.shared_values else str(layer)


def _add_beside(memory: ProductKeyMemory) -> Any:
    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        if not memory.enabled:
            return output
        if isinstance(output, tuple):  # of a mixture of experts, with what its router said
            return output[0] + memory(args[0]), *output[1:]
        return output + memory(args[0])

    return hook


@torch.compiler.disable
def _pass_mask(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Tell the memories which tokens count: `memory_mask` (B, T) where it is given, else the attention mask."""
    mask = kwargs.pop("memory_mask", kwargs.get("attention_mask"))
    for memory in model.memories.values():
        memory.token_mask = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
    return args, kwargs
