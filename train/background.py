"""What generic text says of a memory: its keys, how they are read, and what its loss makes of the reads.

Generic are the texts that ship, or the user's own, and on request what the base writes itself (`own_text.py`).
"""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from active_reading.train.adapter import MemoryAdapter, memory_disabled
from active_reading.train.batches import Batch, Sequence, collate, even_batches, mixed_batches, tokenize
from active_reading.train.codebooks import random_codebooks, set_codebooks
from active_reading.train.generic_text import read_background
from active_reading.train.objectives import next_token_loss
from active_reading.train.own_text import write_own_text
from active_reading.train.precision import autocast
from active_reading.train.settings import TrainSettings
from active_reading.train.slots import count_background

# Not the training's: memories of one base have the same keys whatever the seed, so that patches fit together.
SEED = 0


def prepare_memory(model: Any, adapter: MemoryAdapter, tokenizer: Any, settings: TrainSettings) -> None:
    """Give fresh memories their keys, and find out how generic text reads their slots and depends on the reads.

    Raises ValueError for a base whose weights are broken.
    """
    sequences = generic_sequences(model, tokenizer, settings)
    # Kinds of text are mixed, so that a slot that one kind always reads is in the count of every batch.
    mixed = mixed_batches(sequences, settings.batch_tokens, SEED)
    hidden = hidden_states(model, adapter, [collate(Batch(batch), tokenizer.pad_token_id) for batch in mixed])
    if not all(part.isfinite().all() for parts in hidden.values() for part in parts):
        raise ValueError(f"the weights in {model.config.name_or_path} are broken: its hidden states are not finite")
    for layer, memory in adapter.memories.items():
        if settings.memory.codebooks == "kmeans":
            set_codebooks(memory, torch.cat(hidden[layer]), SEED)
        else:
            random_codebooks(memory, torch.cat(hidden[layer]), SEED)
    for layer, name in adapter.names().items():
        # A table that several layers read is read as often as all of them read it.
        adapter.backgrounds[name].extend(count_background(adapter.memories[layer], hidden[layer]))
    if settings.memory.update_rule == "natural":
        for name, covariance in gradient_covariances(model, adapter, tokenizer, sequences, settings).items():
            adapter.backgrounds[name].gradients = covariance


def generic_sequences(model: Any, tokenizer: Any, settings: TrainSettings) -> list[Sequence]:
    """Of the generic texts and of those that the base writes itself."""
    texts = read_background(settings.background, settings.memory.background_texts)
    with memory_disabled(model):
        texts += write_own_text(model, tokenizer, settings.memory.own_texts, SEED)
    return tokenize(texts, tokenizer, settings.max_length)


def gradient_covariances(
    model: Any, adapter: MemoryAdapter, tokenizer: Any, sequences: list[Sequence], settings: TrainSettings
) -> dict[str, Tensor]:
    """Per table (D, D): mean product of the gradients that tokens of generic text have at the memory's output."""
    sums: dict[str, Tensor] = {}
    tokens = 0
    for planned in even_batches(sequences, settings.batch_tokens):
        batch = collate(Batch(planned), tokenizer.pad_token_id)
        # The gradient of the sum over the tokens, not of their mean: a token's gradient is its own.
        text_loss(model, batch | {"num_targets": 1}).backward()
        tokens += int(batch["attention_mask"].sum())
        for name, table in adapter.tables.items():
            for read in table.reads:
                gradients = read.output_gradient.float()
                if read.counted is not None:
                    gradients = gradients[read.counted]
                sums[name] = sums.get(name, 0) + gradients.T @ gradients
            table.reads.clear()
    return {name: total / tokens for name, total in sums.items()}


def text_loss(model: Any, batch: dict[str, Any]) -> Tensor:
    """Next-token loss of a collated batch: summed over its labels, divided by its `num_targets`."""
    device = next(model.parameters()).device
    ids, mask, labels = (batch[name].to(device) for name in ("input_ids", "attention_mask", "labels"))
    # The other attention kernels of GPUs add gradients up in any order, and a training that is resumed has
    # to start from the very same values.
    with sdpa_kernel(SDPBackend.MATH), autocast(device):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return next_token_loss(logits, labels, batch["num_targets"])


class _LastMemoryReached(Exception):
    """The rest of the forward pass is not needed."""


@torch.no_grad()
def hidden_states(model: Any, adapter: MemoryAdapter, batches: list[dict[str, Any]]) -> dict[int, list[Tensor]]:
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
        with autocast(device), suppress(_LastMemoryReached):
            model(input_ids=ids, attention_mask=attention)
    for handle in handles:
        handle.remove()
    return collected
