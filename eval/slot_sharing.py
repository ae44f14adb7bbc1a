"""Slot sharing: which of the rows that a memory's training changed each document reads, and which ones share them.

Two documents share a changed row when tokens of both read it. Their overlap is the Jaccard index: the rows that
both read over those that either reads. A row that nearly every document reads is a hub: whatever is learned there
is told to all of them.
NOT covered: how strongly a row is read. More than `MOST_DOCUMENTS` documents, and more than `MOST_PASSAGES`
passages of one, are represented by that many, evenly spread.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from active_reading.eval.questions import evenly
from active_reading.train.background import hidden_states
from active_reading.train.batches import Batch, collate, tokenize
from active_reading.train.memory import places_among
from active_reading.train.patch import read_patch

MOST_DOCUMENTS = 60
MOST_PASSAGES = 4
LONGEST = 512  # tokens of a passage
NUM_PAIRS = NUM_HUBS = 10
NUM_TOKENS = 4  # of a hub


def slot_sharing(
    model: Any, tokenizer: Any, changed: Mapping[str, Tensor], documents: Mapping[str, Sequence[str]]
) -> dict[str, Any] | None:
    """What the tokens of `documents` (passages by name) read of the rows `changed`, ascending (t,) by table.

    One forward pass a document. Returns, in plain JSON values: `documents`, an order in which those that share
    stand together; `total`, how many there were; `read`, of each the share of the `num_rows` changed rows that it
    reads; `overlap`, of each with those before it; the `pairs` that overlap most; the `hubs` that most documents
    read, with the commonest tokens that do; and how many rows no document reads (`unread`), one alone (`alone`)
    and more than half of them (`common`). None where nothing changed or nothing is to be read.
    """
    names = [list(documents)[place] for place in evenly(len(documents), MOST_DOCUMENTS)]
    if not names or not sum(map(len, changed.values())):
        return None
    reads, tokens = zip(*(_reads(model, tokenizer, changed, documents[name]) for name in names), strict=True)
    counts = torch.stack(reads)  # (documents, rows)
    is_read = (counts > 0).double()
    both = is_read @ is_read.T
    either = is_read.sum(1)[:, None] + is_read.sum(1) - both
    overlap = both / either.clamp_min(1)
    order = _neighbours(overlap)
    overlap, both = overlap[order][:, order], both[order][:, order]
    names, readers = [names[place] for place in order], is_read.sum(0)
    return {
        "documents": names,
        "total": len(documents),
        "num_rows": counts.shape[1],
        "unread": int((readers == 0).sum()),
        "alone": int((readers == 1).sum()),
        "common": int((readers > len(names) / 2).sum()),
        "read": [round(share, 4) for share in is_read.mean(1)[order].tolist()],
        "overlap": [[round(value, 4) for value in row[:place].tolist()] for place, row in enumerate(overlap)],
        "pairs": _pairs(names, overlap, both),
        "hubs": _hubs(counts, readers, changed, tokens, tokenizer),
    }


def changed_rows(patch: Path) -> dict[str, Tensor]:
    """By table, the rows (t,) whose values a training changed, ascending; see `train.patch`."""
    found = read_patch(patch)
    moved = {table: (found.before(table) != found.tensors[f"{table}.after"]).any(1) for table in found.tables}
    return {table: found.tensors[f"{table}.rows"][moved[table]] for table in found.tables}


@torch.no_grad()
def _reads(
    model: Any, tokenizer: Any, changed: Mapping[str, Tensor], passages: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """How often each of all changed rows (R,) is read; and each read: its row's place and its token, (2, M)."""
    some = [passages[place] for place in evenly(len(passages), MOST_PASSAGES)]
    batch = collate(Batch(tokenize(some, tokenizer, LONGEST)), tokenizer.pad_token_id)
    adapter = model.memory_adapter
    hidden = hidden_states(model, adapter, [batch])
    ids = batch["input_ids"][batch["attention_mask"].bool()]
    starts = _starts(changed)
    found = []
    for layer, table in adapter.names().items():
        rows = changed.get(table, torch.empty(0, dtype=torch.long))
        if not len(rows):
            continue
        memory = adapter.memories[layer]
        slots = memory.lookup(hidden[layer][0].to(memory.keys.device))[0].cpu()  # (tokens, reads)
        place = places_among(rows, slots)
        hit = place < len(rows)
        found.append(torch.stack([starts[table] + place[hit], ids[:, None].expand_as(slots)[hit]]).int())
    reads = torch.cat(found, dim=1)
    return torch.bincount(reads[0], minlength=sum(map(len, changed.values()))), reads


def _starts(changed: Mapping[str, Tensor]) -> dict[str, int]:
    """Where each table's rows begin among all of them."""
    starts, start = {}, 0
    for table, rows in changed.items():
        starts[table], start = start, start + len(rows)
    return starts


def _neighbours(overlap: Tensor) -> list[int]:
    """An order of the documents that puts those beside each other that overlap: average linkage."""
    if len(overlap) < 3:
        return list(range(len(overlap)))
    distance = 1 - overlap
    distance.fill_diagonal_(0)
    tree = linkage(squareform(distance.numpy(), checks=False), "average", optimal_ordering=True)
    return [int(place) for place in leaves_list(tree)]


def _pairs(names: list[str], overlap: Tensor, both: Tensor) -> list[dict[str, Any]]:
    second, first = torch.tril_indices(len(names), len(names), -1)
    best = overlap[second, first].argsort(descending=True, stable=True)[:NUM_PAIRS].tolist()
    places = [(int(first[pair]), int(second[pair])) for pair in best]
    return [
        {"documents": [names[a], names[b]], "overlap": round(float(overlap[a, b]), 4), "rows": int(both[a, b])}
        for a, b in places
    ]


def _hubs(
    counts: Tensor, readers: Tensor, changed: Mapping[str, Tensor], tokens: Sequence[Tensor], tokenizer: Any
) -> list[dict[str, Any]]:
    """The rows that most documents read, the most read first among equals."""
    starts, total = _starts(changed), counts.sum(0)
    order = sorted(range(len(total)), key=lambda place: (-int(readers[place]), -int(total[place]), place))
    found = []
    for place in order[:NUM_HUBS]:
        table = max((name for name in changed if starts[name] <= place), key=lambda name: starts[name])
        read_by = Counter(token for reads in tokens for token in reads[1][reads[0] == place].tolist())
        found.append(
            {
                "table": table,
                "row": int(changed[table][place - starts[table]]),
                "documents": int(readers[place]),
                "reads": round(float(total[place] / total.sum()), 5),
                "tokens": [tokenizer.decode([token]) for token, _ in read_by.most_common(NUM_TOKENS)],
            }
        )
    return [hub for hub in found if hub["documents"]]
