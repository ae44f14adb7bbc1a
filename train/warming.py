"""Warming of fresh memories: values that generic text taught something, before anything new is learned.

The values of a fresh memory are zero, so that its first reads say nothing. Warmed values help to predict generic
text, and the model's output is no longer that of its base. What a training changes is counted from the warmed
memory; the distance to the base is that to the base with the memory off.
"""

import math
from typing import Any

from active_reading.train.adapter import STORED, MemoryAdapter
from active_reading.train.background import text_loss
from active_reading.train.batches import Batch, collate, plan_batches, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.settings import TrainSettings
from active_reading.train.sparse_optimizer import SparseRowOptimizer


def warm_memory(model: Any, adapter: MemoryAdapter, tokenizer: Any, settings: TrainSettings) -> list[float]:
    """Let fresh values learn to predict `warm_tokens` of background text; returns the loss of each step (nats).

    Every row that is read moves, at the constant `warm_rate`; the base has to be frozen. Where several processes
    train, each of them warms on all of the text, and all come to the same values on devices of the same kind.
    Raises ValueError for a loss that is not finite.
    """
    sequences = tokenize(read_background(settings.background), tokenizer, settings.max_length)
    planned = plan_batches(sequences, settings.memory.warm_tokens, settings.batch_tokens, settings.seed)
    every_row = settings.memory.model_copy(update={"slot_score": "all", "update_rule": "row"})
    optimizer = SparseRowOptimizer(
        adapter.tables, adapter.backgrounds, every_row, settings.memory.warm_rate, settings.seed
    )
    losses: list[float] = []
    for batch in planned:
        loss = text_loss(model, collate(Batch(batch), tokenizer.pad_token_id))
        loss.backward()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"the loss is {losses[-1]} at step {len(losses)} of the warming: lower train.memory.warm_rate"
            )
        optimizer.step()
    for table in adapter.tables.values():
        table.values.copy_(table.values.to(STORED))  # training starts from what is saved as its start
    return losses
