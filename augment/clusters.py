"""Clusters: what is known of rows (seen.py) -> the verdict on each new one.

A node is a text, of one row or of several with the same words. Nodes are numbered by hash, so that no verdict
depends on the order of rows; rows are numbered from those of earlier runs on. Earlier verdicts stand: an earlier
survivor stands for all that repeat it, and two of them stay two even where a new text is linked to both.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from active_reading.augment.minhash import bucket_pairs, components, distinct, packed, similarities, unpacked
from active_reading.augment.seen import Seen
from active_reading.augment.shingles import I64, U64

PAIR_SHINGLES = 1 << 23  # shingles of the pairs that are compared together
PAIRS = 1 << 25  # found pairs that are sorted together
F64 = npt.NDArray[np.float64]


def judge(
    new: pl.DataFrame,
    earlier: pl.DataFrame,
    seen: Seen,
    bands: int,
    threshold: float,
    by_meaning: Callable[[pl.Series], tuple[I64, I64]] | None,
) -> pl.DataFrame:
    """`duplicate_of` and `similarity` of the new rows; `earlier` and `new` are the rows of `seen`, in order.

    `by_meaning` says which of some ids are linked for other reasons, as places among them.
    """
    exact = np.concatenate([earlier["exact"].to_numpy(), new["exact"].to_numpy()])
    _, row_of, node_of = np.unique(exact, return_index=True, return_inverse=True)  # row_of: an earlier one, if any
    pairs = _candidates(seen, row_of, earlier.height, bands)
    similarity = _similarities(seen, row_of, pairs)
    first, second = unpacked(pairs[similarity >= threshold])
    if by_meaning:
        fresh = np.flatnonzero(row_of >= earlier.height)
        alike = by_meaning(new["id"][row_of[fresh] - earlier.height])
        first, second = (
            np.concatenate([ends, fresh[more]]) for ends, more in zip((first, second), alike, strict=True)
        )
    touched = np.unique(np.concatenate([first, second, node_of[earlier.height :]]))
    survivors = _survivors(earlier, row_of, touched[row_of[touched] < earlier.height])
    standing = np.arange(len(row_of))  # the node that stands for each
    standing[survivors["node"]] = node_of[survivors["row"]]
    linked, smallest = components(standing[first], standing[second])
    cluster = np.arange(len(row_of))
    cluster[linked] = smallest
    cluster = cluster[standing]
    chosen = survivors["row"].unique().sort()
    ranked = ["id", "length", "faithfulness"]
    members = pl.concat([earlier[chosen].select(ranked), new.select(ranked)]).with_columns(
        row=pl.concat([chosen, pl.int_range(earlier.height, earlier.height + new.height, eager=True)])
    )
    members = members.with_columns(cluster=pl.Series(cluster[node_of[members["row"]]])).filter(
        pl.len().over("cluster") > 1
    )
    repeats = _repeats(members, earlier.height)
    ends = packed(node_of[repeats["row"]], node_of[repeats["keeper_row"]])
    repeats = repeats.with_columns(similarity=pl.Series(_look_up(seen, row_of, pairs, similarity, ends)))
    rows = pl.select(row=pl.int_range(earlier.height, earlier.height + new.height))
    return rows.join(repeats, on="row", how="left", maintain_order="left").select("duplicate_of", "similarity")


def _candidates(seen: Seen, row_of: I64, num_earlier: int, bands: int) -> U64:
    """Pairs of nodes that share a band, at least one of each new."""
    is_new = row_of >= num_earlier
    nodes = np.arange(len(row_of))
    found: list[U64] = [np.zeros(0, np.uint64)]
    if not is_new.any():
        return found[0]
    for all_keys in seen.bands(bands):
        keys = all_keys[row_of]
        near = nodes
        if num_earlier:
            near = np.flatnonzero(pl.Series(keys).is_in(pl.Series(keys[is_new]).unique().implode()))
            keys = keys[near]
        pairs = bucket_pairs(keys, near)
        first, second = unpacked(pairs)
        found.append(pairs[is_new[first] | is_new[second]])
        if sum(map(len, found)) > PAIRS:
            found = [distinct(np.concatenate(found))]
    return distinct(np.concatenate(found))


def _similarities(seen: Seen, row_of: I64, pairs: U64) -> F64:
    """(P,) the similarities of pairs of nodes, counted some megabytes of shingles at a time."""
    result = np.zeros(len(pairs))
    for part in _portions(seen, row_of, pairs):
        rows, ends = np.unique(row_of[np.concatenate(unpacked(pairs[part]))], return_inverse=True)
        values, offsets = seen.shingles(rows)
        result[part] = similarities(values, offsets, *np.split(ends, 2))
    return result


def _portions(seen: Seen, row_of: I64, pairs: U64) -> Iterator[slice]:
    if not len(pairs):
        return
    first, second = unpacked(pairs)
    counts = seen.counts()
    total = np.cumsum(counts[row_of[first]] + counts[row_of[second]])
    start = 0
    while start < len(pairs):
        limit = (total[start - 1] if start else 0) + PAIR_SHINGLES
        end = max(int(np.searchsorted(total, limit, side="right")), start + 1)
        yield slice(start, end)
        start = end


def _survivors(earlier: pl.DataFrame, row_of: I64, nodes: I64) -> pl.DataFrame:
    """`row`: the survivor that stands for each of the nodes (`node`) of earlier rows."""
    verdict = earlier[row_of[nodes]].select(
        pl.col("duplicate_of").fill_null(pl.col("id")).alias("id"), node=pl.Series(nodes)
    )
    places = earlier.lazy().select("id").with_row_index("row").filter(pl.col("id").is_in(verdict["id"].implode()))
    return verdict.join(places.collect().cast({"row": pl.Int64}), on="id", how="left", maintain_order="left")


def _repeats(members: pl.DataFrame, num_earlier: int) -> pl.DataFrame:
    """`row`, `duplicate_of` and `keeper_row` of the new members that do not survive."""
    members = members.with_columns(is_new=pl.col("row") >= num_earlier).sort(
        "cluster",
        "is_new",
        "faithfulness",
        "length",
        "id",
        descending=[False, False, True, True, False],
        nulls_last=True,
    )
    return members.with_columns(
        duplicate_of=pl.col("id").first().over("cluster"), keeper_row=pl.col("row").first().over("cluster")
    ).filter(pl.col("is_new") & (pl.col("row") != pl.col("keeper_row")))


def _look_up(seen: Seen, row_of: I64, pairs: U64, similarity: F64, wanted: U64) -> F64:
    """Similarities of the wanted pairs; those that were not counted yet are counted now."""
    unique, place = np.unique(wanted, return_inverse=True)
    first, second = unpacked(unique)
    result = np.ones(len(unique))
    at = np.searchsorted(pairs, unique)
    counted = pairs[np.minimum(at, len(pairs) - 1)] == unique if len(pairs) else np.zeros(len(unique), bool)
    result[counted] = similarity[at[counted]]
    rest = ~counted & (first != second)
    result[rest] = _similarities(seen, row_of, unique[rest])
    return result[place]
