"""Dedupe: kept texts -> distinct texts, and duplicates that name what they repeat.

Exact: equal after Unicode, case, punctuation and white-space normalisation.
Near: MinHash signatures (rensa) over word shingles, banded into candidate pairs, the Jaccard similarity of
each pair verified on the shingles themselves, clusters as connected components. With b bands of r rows a
pair of similarity s is a candidate with probability 1 - (1 - s^r)^b; the default, 32 bands of 4 rows, gives
0.9999 at s = 0.8 and 0.87 at s = 0.5.
Of each cluster the longest text survives, then the smallest id: the same whatever the order of rows.
"""

import re
import unicodedata
from collections import defaultdict
from itertools import combinations, pairwise

import polars as pl
from pydantic import BaseModel, ConfigDict, Field
from rensa import RMinHash

NUM_BANDS = 32
ROWS_PER_BAND = 4
Pair = tuple[int, int]


class DedupeSettings(BaseModel):
    """When two texts count as the same."""

    model_config = ConfigDict(extra="forbid")

    threshold: float = Field(0.8, ge=0.5, le=1, description="Jaccard similarity of word shingles")
    shingle_words: int = Field(3, ge=1, description="words per shingle")


def mark_duplicates(texts: pl.DataFrame, settings: DedupeSettings) -> pl.DataFrame:
    """`texts` with `duplicate_of` (an id) and the `similarity` to that text, both null on the survivors.

    `texts` has `id` and `text`. Row order is kept. Where a text is linked to the survivor through others,
    their similarity may lie below the threshold.
    """
    texts = texts.cast({"id": pl.String, "text": pl.String})  # columns without any value have no type of their own
    ranked = texts.select("id", "text").sort(pl.col("text").str.len_chars(), "id", descending=[True, False])
    bodies = [normalize(text) for text in ranked["text"]]
    shingles = [_shingles(body, settings.shingle_words) for body in bodies]
    pairs = _exact_pairs(bodies) | _near_pairs(shingles, settings.threshold)
    ids = ranked["id"].to_list()
    marks = [
        {"id": ids[index], "duplicate_of": ids[keeper], "similarity": _jaccard(shingles[keeper], shingles[index])}
        for keeper, index in _clusters(len(ids), pairs)
    ]
    schema = {"id": pl.String, "duplicate_of": pl.String, "similarity": pl.Float64}
    return texts.join(pl.DataFrame(marks, schema=schema), on="id", how="left", maintain_order="left")


def normalize(text: str) -> str:
    """Case-folded words of the text (Unicode NFKC), separated by single spaces."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _exact_pairs(bodies: list[str]) -> set[Pair]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, body in enumerate(bodies):
        groups[body].append(index)
    return {(group[0], index) for group in groups.values() for index in group[1:]}


def _near_pairs(shingles: list[set[str]], threshold: float) -> set[Pair]:
    """Candidate pairs (smaller index first) that are similar indeed."""
    return {pair for pair in _candidates(shingles) if _jaccard(shingles[pair[0]], shingles[pair[1]]) >= threshold}


def _jaccard(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def _shingles(body: str, length: int) -> set[str]:
    words = body.split()
    if len(words) <= length:
        return {body}
    return {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}


def _candidates(shingles: list[set[str]]) -> set[Pair]:
    buckets: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)
    for index, members in enumerate(shingles):
        signature = RMinHash(num_perm=NUM_BANDS * ROWS_PER_BAND, seed=1)
        signature.update(sorted(members))
        digest = signature.digest()
        for band in range(NUM_BANDS):
            rows = tuple(digest[band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND])
            buckets[band, rows].append(index)
    found: set[Pair] = set()
    for members_of_bucket in buckets.values():
        # In a crowded bucket neighbours are enough: the clusters are connected components.
        near = combinations if len(members_of_bucket) <= 50 else lambda group, _: pairwise(group)
        found.update(near(members_of_bucket, 2))
    return found


def _clusters(count: int, pairs: set[Pair]) -> list[Pair]:
    """(keeper, duplicate) for every index that is not the smallest of its connected component."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [(root(index), index) for index in range(count) if root(index) != index]
