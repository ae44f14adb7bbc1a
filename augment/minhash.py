"""MinHash: shingles -> band keys, band keys -> candidate pairs, pairs -> Jaccard similarities and clusters.

Two texts of Jaccard similarity s have the same smallest hash with probability s (Broder 1997), r such in a row
with s^r, and at least one of b such bands with 1 - (1 - s^r)^b. `choose_banding` takes the longest bands that find
a pair at the threshold with probability 0.995 in at most 128 hashes:

    threshold  bands x rows   found at s =  0.3    0.5    0.6    0.7    0.8    0.9
    0.8        18 x 6                      0.013  0.25   0.58   0.90   0.996  1.000
    0.9        11 x 9                      0.000  0.02   0.11   0.36   0.79   0.996
    0.5        40 x 3                      0.66   0.995  1.000  1.000  1.000  1.000

What else is found costs time alone: each candidate's similarity is counted on the shingles themselves.
"""

from itertools import pairwise
from math import ceil, log, log1p

import numpy as np

from active_reading.augment.shingles import I64, U32, U64

FOUND = 0.995
MAX_HASHES = 128
CROWD = 16  # members of a bucket that are all compared with each other
CACHED = 1 << 16  # shingles hashed together: they stay in the processor's cache
KEY = np.uint64(0x9E3779B97F4A7C15)


def choose_banding(threshold: float) -> tuple[int, int]:
    """(bands, rows per band) for a threshold in (0, 1]."""
    for rows in range(MAX_HASHES, 0, -1):
        chance = threshold**rows
        bands = ceil(log(1 - FOUND) / log1p(-chance)) if chance < 1 else 1
        if bands * rows <= MAX_HASHES:
            return bands, rows
    raise ValueError(f"threshold {threshold}: too low to be found in {MAX_HASHES} hashes")


def band_keys(values: U32, offsets: I64, banding: tuple[int, int]) -> U64:
    """(bands, N) keys: equal where all smallest hashes of a band are equal.

    The hashes of a shingle x are a * x modulo 2^32 for random odd a: x is a hash already, so that these behave
    as random permutations.
    """
    bands, rows = banding
    random = np.random.default_rng(1)
    factors = random.integers(0, 2**32, bands * rows, dtype=np.uint32) | np.uint32(1)
    smallest = np.empty((bands * rows, len(offsets) - 1), np.uint32)
    cuts = np.unique([*np.searchsorted(offsets, np.arange(0, offsets[-1], CACHED)), len(offsets) - 1])
    for start, end in pairwise(cuts):
        shingles, places = values[offsets[start] : offsets[end]], offsets[start:end] - offsets[start]
        hashed = np.empty_like(shingles)
        for place, factor in enumerate(factors):
            np.multiply(shingles, factor, out=hashed)
            np.minimum.reduceat(hashed, places, out=smallest[place, start:end])
    keys = np.repeat(np.arange(bands, dtype=np.uint64)[:, None], len(offsets) - 1, axis=1)
    for row in range(rows):
        keys = (keys + smallest[row::rows]) * KEY
        keys ^= keys >> np.uint64(29)
    return keys


def bucket_pairs(keys: U64, nodes: I64) -> U64:
    """Pairs (`packed`) to compare among the nodes (ascending, below 2^32) that share a key.

    In a bucket of more than CROWD nodes each is compared with the first and with its neighbours alone: a bucket
    of a million is a million comparisons, and the other bands give others. The result depends on which
    nodes share keys, not on the order in which they come.
    """
    order = np.argsort(keys, kind="stable")
    keys, nodes = keys[order], nodes[order]
    start = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    size = np.diff(np.concatenate([start, [len(keys)]]))
    shared = np.repeat(size > 1, size)
    place = (np.arange(len(keys)) - np.repeat(start, size))[shared]  # in its bucket
    first = nodes[np.repeat(start, size)[shared]]
    nodes, size = nodes[shared], np.repeat(size, size)[shared]
    star = (size > CROWD) & (place > 1)
    pairs = [packed(first[star], nodes[star])]
    for step in range(1, CROWD):
        later = np.flatnonzero((place >= step) & ((size <= CROWD) | (step == 1)))
        pairs.append(packed(nodes[later - step], nodes[later]))
    return np.concatenate(pairs)


def distinct(values: U64) -> U64:
    """The values once each, ascending; numpy's `unique` hashes them first, which takes longer."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def similarities(values: U32, offsets: I64, first: I64, second: I64) -> np.ndarray:
    """(P,) Jaccard similarities of the sets of shingles of texts first[i] and second[i]."""
    from scipy.sparse import csr_array  # here, so that a program that removes no duplicates need not wait for it

    shape = (len(offsets) - 1, 2**30)
    sets = csr_array((np.ones(len(values), np.int32), values.astype(np.int32), offsets.astype(np.int32)), shape)
    sets.sum_duplicates()
    sets.data[:] = 1
    size = np.diff(sets.indptr)
    shared = np.diff(sets[first].multiply(sets[second]).tocsr().indptr)
    return shared / (size[first] + size[second] - shared)


def packed(first: I64, second: I64) -> U64:
    """Pairs of nodes as one number each: the smaller << 32 | the larger."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    return low.astype(np.uint64) << np.uint64(32) | high.astype(np.uint64)


def unpacked(pairs: U64) -> tuple[I64, I64]:
    """The smaller and the larger node of each pair."""
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)


def components(first: I64, second: I64) -> tuple[I64, I64]:
    """The nodes that are linked, ascending, and for each the smallest that it is linked to, through others too."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    nodes, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
    links = csr_array((np.ones(len(first), bool), np.split(ends, 2)), (len(nodes), len(nodes)))
    _, label = connected_components(links, directed=False)
    smallest = np.full(label.max(initial=-1) + 1, len(nodes))
    np.minimum.at(smallest, label, np.arange(len(nodes)))
    return nodes, nodes[smallest[label]]
