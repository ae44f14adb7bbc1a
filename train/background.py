"""The background of fresh memories: keys, and counts of how generic text reads them."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from active_reading.train.adapter import MemoryAdapter
from active_reading.train.batches import Batch, collate, mixed_batches, tokenize
from active_reading.train.codebooks import random_codebooks, set_codebooks
from active_reading.train.generic_text import read_background
from active_reading.train.precision import compute_dtype
from active_reading.train.settings import TrainSettings
from active_reading.train.slots import count_background


def prepare_memory(model: Any, adapter: MemoryAdapter, tokenizer: Any, settings: TrainSettings) -> None:
    """Give fresh memories their keys, and count how generic text reads their slots."""
    texts = read_background(settings.background, settings.memory.background_texts)
    sequences = tokenize(texts, tokenizer, settings.max_length)
    # Kinds of text are mixed, so that a slot that one kind always reads is in the count of every batch.
    planned = mixed_batches(sequences, settings.batch_tokens, settings.seed)
    batches = [collate(Batch(batch), tokenizer.pad_token_id) for batch in planned]
    hidden = _hidden_states(model, adapter, batches)
    for layer, memory in adapter.memories.items():
        if settings.memory.codebooks == "kmeans":
            set_codebooks(memory, torch.cat(hidden[layer]), settings.seed)
        else:
            random_codebooks(memory, torch.cat(hidden[layer]), settings.seed)
    for layer, name in adapter.names().items():
        counted = count_background(adapter.memories[layer], hidden[layer])
        # A table that several layers read is read as often as all of them read it.
        adapter.backgrounds[name].counts += counted.counts
        adapter.backgrounds[name].num_batches += counted.num_batches


class _LastMemoryReached(Exception):
    """The rest of the forward pass is not needed."""


@torch.no_grad()
def _hidden_states(model: Any, adapter: MemoryAdapter, batches: list[dict[str, Any]]) -> dict[int, list[Tensor]]:
    """What each memory will read: per layer one (M, D) of real tokens for each batch.

    The layers above the last memory are not run.
    """
    collected: dict[int, list[Tensor]] = {layer: [] for layer in adapter.memories}
    mask = torch.empty(0)
    last = max(adapter.memories)

    def collect(layer: int, hidden: Tensor) -> None:
        collected[layer].append(hidden.flatten(0, 1)[mask].float().cpu())
        if layer == last:
            raise _LastMemoryReached

    handles = [
        memory.register_forward_pre_hook(lambda _, args, layer=layer: collect(layer, args[0]))
        for layer, memory in adapter.memories.items()
    ]
    device = next(model.parameters()).device
    for batch in batches:
        ids, attention = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        mask = attention.flatten().bool()
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16)
        with autocast, suppress(_LastMemoryReached):
            model(input_ids=ids, attention_mask=attention)
    for handle in handles:
        handle.remove()
    return collected
