"""Texts for the benchmarks of dedupe: real text, cut and perturbed, and which rows truly have a near-duplicate.

The text is a file that is named, or Python's own help on its language (pydoc_data, 100,000 words of English).
"""

import random
import re
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_array

ROW_WORDS = 100
PIECE = 10  # words of real text that stay together where rows are to be unlike each other


def source_words(path: str) -> list[str]:
    if path:
        return Path(path).read_text(encoding="utf-8").split()
    from pydoc_data.topics import topics

    return " ".join(topics.values()).split()


def rewrites(words: list[str], count: int, seed: int) -> list[str]:
    """Rewrites of passages of real text, 25 of each: half with 15 to 40 % of the words changed, a third with 5 to
    15 %, the others with up to 5 %."""
    source = random.Random(seed)
    rows: list[str] = []
    while len(rows) < count:
        start = source.randrange(len(words) - ROW_WORDS)
        passage = words[start : start + ROW_WORDS]
        for _ in range(25):
            low, high = source.choices([(0.15, 0.4), (0.05, 0.15), (0, 0.05)], [0.5, 0.3, 0.2])[0]
            rows.append(" ".join(edited(passage, round(source.uniform(low, high) * ROW_WORDS), words, source)))
    source.shuffle(rows)
    return rows[:count]


def planted(words: list[str], count: int, seed: int) -> list[str]:
    """Rows of pieces of real text that have little in common, a tenth of them copies with 0 to 6 words changed."""
    source = random.Random(seed)
    rows = [" ".join(pieces(words, source)) for _ in range(count - count // 10)]
    originals = source.sample(rows, count // 10)
    rows += [" ".join(edited(row.split(), source.randint(0, 6), words, source)) for row in originals]
    source.shuffle(rows)
    return rows


def pieces(words: list[str], source: random.Random) -> list[str]:
    starts = [source.randrange(len(words) - PIECE) for _ in range(ROW_WORDS // PIECE)]
    return [word for start in starts for word in words[start : start + PIECE]]


def edited(row: list[str], edits: int, words: list[str], source: random.Random) -> list[str]:
    """The row with words replaced, left out or put in, each time another."""
    row = list(row)
    for _ in range(edits):
        place = source.randrange(len(row))
        kind = source.randrange(3)
        row[place : place + (kind != 2)] = [] if kind == 1 else [source.choice(words)]
    return row


def near_pairs(texts: list[str], threshold: float, length: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows of Jaccard similarity >= threshold, exactly, by another way than the one under test.

    Two such sets share one of the rarest (1 - threshold) * size + 1 shingles of each, in one order of all shingles
    (the prefix filter of Chaudhuri et al. 2006): pairs that share one are counted on the whole sets.
    """
    shingles = []
    for text in texts:
        found = re.findall(r"[^\W_]+", text.lower())
        runs = {tuple(found[start : start + length]) for start in range(max(1, len(found) - length + 1))}
        shingles.append([hash(run) for run in runs])
    size = np.array([len(row) for row in shingles])
    rows = np.repeat(np.arange(len(texts)), size)
    _, column, seen = np.unique(np.concatenate(shingles), return_inverse=True, return_counts=True)
    sets = csr_array((np.ones(len(rows), np.int32), (rows, column)), (len(texts), len(seen)))
    order = np.lexsort((column, seen[column], rows))  # of each row the rarest first
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(size) - size, size)
    prefix = order[rank <= np.repeat((1 - threshold) * size + 1e-9, size)]
    rarest = csr_array((np.ones(len(prefix), np.int32), (rows[prefix], column[prefix])), sets.shape)
    firsts, seconds = [], []
    for start in range(0, len(texts), 1000):
        shared = (rarest[start : start + 1000] @ rarest.T).tocoo()
        first, second = shared.coords[0] + start, shared.coords[1]
        first, second = first[first < second], second[first < second]
        common = np.diff(sets[first].multiply(sets[second]).tocsr().indptr)
        near = common >= threshold * (size[first] + size[second] - common) - 1e-9
        firsts.append(first[near])
        seconds.append(second[near])
    return np.concatenate(firsts), np.concatenate(seconds)


def frame(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"id": [f"{place:08}" for place in range(len(texts))], "text": texts})
