"""The optimizer of a memory, made ready for a training: which rows may move, and what it costs to move them."""

from dataclasses import replace
from typing import Any

import torch

from active_reading.train.adapter import MemoryAdapter
from active_reading.train.background import generic_sequences, gradient_covariances, hidden_states
from active_reading.train.batches import Batch, Sequence, collate, even_batches
from active_reading.train.natural_gradient import Reads, curvature
from active_reading.train.settings import TrainSettings
from active_reading.train.sparse_optimizer import NaturalRowOptimizer, SparseRowOptimizer, best_slots


def row_optimizer(
    model: Any, adapter: MemoryAdapter, tokenizer: Any, settings: TrainSettings, sequences: list[Sequence]
) -> tuple[SparseRowOptimizer, dict[str, Reads]]:
    """The optimizer for a training on `sequences`; and by table how some of their tokens read.

    The reads are given where the update is the natural gradient, which has to see all of the new text beforehand.
    """
    rate = settings.learning_rates.memory
    if settings.memory.update_rule != "natural":
        return SparseRowOptimizer(adapter.tables, adapter.backgrounds, settings.memory, rate, settings.seed), {}
    reads = _reads_of(model, adapter, tokenizer, settings, sequences)
    backgrounds = adapter.backgrounds
    if any(not len(background.gradients) for background in backgrounds.values()):  # of another rule's memory
        generic = generic_sequences(model, tokenizer, settings)
        # Not kept with the adapter: a patch, by which this training is taken back, has no gradients.
        backgrounds = {
            name: replace(backgrounds[name], gradients=covariance)
            for name, covariance in gradient_covariances(model, adapter, tokenizer, generic, settings).items()
        }
    curvatures, learned = {}, {}
    for name, (slots, weights) in reads.items():
        generator = torch.Generator().manual_seed(settings.seed)
        background = backgrounds[name]
        read, counts = slots.unique(return_counts=True)
        rows = best_slots(settings.memory, read, counts, background, generator).sort().values
        curvatures[name] = curvature(
            background,
            rows,
            settings.memory.num_heads,
            settings.memory.damping,
            (slots, weights),
            settings.memory.new_text_weight,
        )
        num_layers = list(adapter.names().values()).count(name)
        number = min(settings.memory.learned_tokens * num_layers, len(slots))
        some = torch.linspace(0, len(slots) - 1, number, device=slots.device).long().clamp_max(len(slots) - 1)
        learned[name] = slots[some], weights[some]
    return NaturalRowOptimizer(adapter.tables, adapter.backgrounds, settings.memory, rate, curvatures), learned


@torch.no_grad()
def _reads_of(
    model: Any, adapter: MemoryAdapter, tokenizer: Any, settings: TrainSettings, sequences: list[Sequence]
) -> dict[str, Reads]:
    """By table, what every token of the sequences reads."""
    found: dict[int, list[Reads]] = {layer: [] for layer in adapter.memories}
    for planned in even_batches(sequences, settings.batch_tokens):  # one by one: all hidden states are far too many
        hidden = hidden_states(model, adapter, [collate(Batch(planned), tokenizer.pad_token_id)])
        for layer, memory in adapter.memories.items():
            found[layer].append(memory.lookup(hidden[layer][0].to(memory.keys.device)))
    by_table: dict[str, list[Reads]] = {}
    for layer, name in adapter.names().items():
        by_table.setdefault(name, []).extend(found[layer])
    return {
        name: (torch.cat([slots for slots, _ in reads]), torch.cat([weights for _, weights in reads]))
        for name, reads in by_table.items()
    }
