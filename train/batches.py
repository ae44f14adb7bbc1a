"""Batches: texts -> padded batches of one text per sequence, up to an exact token budget.

Texts repeat, reshuffled every epoch, until the budget is spent; the last text is cut to meet it. A batch
holds `batch_tokens` tokens of texts of like length, so that little is padding. All methods that train on
the same texts see the same batches.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # label that the loss leaves out
Sequence = list[int]


def tokenize(texts: list[str], tokenizer: Any, max_length: int) -> list[Sequence]:
    """Token ids of each text with the end-of-text token, cut at `max_length`.

    Raises ValueError when there is no text.
    """
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    sequences = [[*ids[: max_length - len(end)], *end] for ids in encoded if ids]
    if not sequences:
        raise ValueError("the data set has no text to train on")
    return sequences


def plan_batches(sequences: list[Sequence], num_tokens: int, batch_tokens: int, seed: int) -> list[list[Sequence]]:
    """Batches that hold `num_tokens` tokens in all (one fewer where texts of two tokens leave no choice)."""
    chooser = random.Random(seed)
    chosen: list[Sequence] = []
    left = num_tokens
    for sequence in _epochs(sequences, chooser):
        if left < 2:
            break
        # The last text needs two tokens, one to predict the other: the text before it may have to give one.
        chosen.append(sequence[: left - 2 if len(sequence) == left - 1 > 2 else left])
        left -= len(chosen[-1])
    batches: list[list[Sequence]] = []
    # Texts of like length go together within a window of ten batches; the order in time stays random.
    for window in _groups(chosen, 10 * batch_tokens):
        groups = list(_groups(sorted(window, key=len), batch_tokens))
        chooser.shuffle(groups)
        batches += groups
    return batches


def collate(sequences: list[Sequence], pad_token_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels`, each (B, T), padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_token_id)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}


def _epochs(sequences: list[Sequence], chooser: random.Random) -> Iterator[Sequence]:
    order = list(range(len(sequences)))
    while True:
        chooser.shuffle(order)
        yield from (sequences[index] for index in order)


def _groups(sequences: list[Sequence], num_tokens: int) -> Iterator[list[Sequence]]:
    group: list[Sequence] = []
    size = 0
    for sequence in sequences:
        if group and size + len(sequence) > num_tokens:
            yield group
            group, size = [], 0
        group.append(sequence)
        size += len(sequence)
    if group:
        yield group
