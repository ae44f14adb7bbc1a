"""Clusters: what is known of rows (seen.py) -> the verdict on each new one.

A node is a text, of one row or of several with the same words. Nodes are numbered by hash, so that no verdict
depends on the order of rows; rows are numbered from those of earlier runs on. Earlier verdicts stand: an earlier
survivor stands for all that repeat it, and two of them stay two even where a new text is linked to both.
Of the earlier rows only those count that share a band with a new one, and their survivors: a few of millions.
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
    threshold: float,
    by_meaning: Callable[[pl.Series], tuple[I64, I64]] | None,
) -> pl.DataFrame:
    """`duplicate_of` and `similarity` of the new rows; `earlier` and `new` are the rows of `seen`, in order.

    `by_meaning` says which of some ids are linked for other reasons, as places among them.
    """
    exact = np.concatenate([earlier["exact"].to_numpy(), new["exact"].to_numpy()])
    survivors = _survivors(earlier, _shared(seen, exact, earlier.height))
    chosen = survivors["survivor"].unique().sort()
    related = np.unique(np.concatenate([survivors["row"], chosen]))
    rows = np.concatenate([related, np.arange(earlier.height, len(exact))])
    _, first_of, numbers = np.unique(exact[rows], return_index=True, return_inverse=True)
    row_of = rows[first_of]  # an earlier one, if any
    node_of = np.zeros(len(exact), np.int64)  # of the others nothing is asked
    node_of[rows] = numbers
    pairs = _candidates(seen, row_of, earlier.height)
    similarity = _similarities(seen, row_of, pairs)
    first, second = unpacked(pairs[similarity >= threshold])
    if by_meaning:
        fresh = np.flatnonzero(row_of >= earlier.height)
        alike = by_meaning(new["id"][row_of[fresh] - earlier.height])
        first, second = (
            np.concatenate([ends, fresh[more]]) for ends, more in zip((first, second), alike, strict=True)
        )
    standing = np.arange(len(row_of))  # the node that stands for each
    standing[node_of[survivors["row"]]] = node_of[survivors["survivor"]]
    linked, smallest = components(standing[first], standing[second])
    cluster = np.arange(len(row_of))
    cluster[linked] = smallest
    cluster = cluster[standing]
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
    judged = pl.select(row=pl.int_range(earlier.height, earlier.height + new.height))
    return judged.join(repeats, on="row", how="left", maintain_order="left").select("duplicate_of", "similarity")


def _shared(seen: Seen, exact: U64, num_earlier: int) -> I64:
    """The rows of earlier runs that share a band, or all their words, with a new one."""
    shared = np.zeros(num_earlier, bool)
    if 0 < num_earlier < len(exact):
        for keys in (exact, *seen.bands()):
            wanted = pl.Series(keys[num_earlier:]).unique()
            shared |= pl.Series(keys[:num_earlier]).is_in(wanted.implode()).to_numpy()
    return np.flatnonzero(shared)


def _candidates(seen: Seen, row_of: I64, num_earlier: int) -> U64:
    """Pairs of nodes that share a band, at least one of each new."""
    is_new = row_of >= num_earlier
    nodes = np.arange(len(row_of))
    found: list[U64] = [np.zeros(0, np.uint64)]
    for keys in seen.bands() if is_new.any() else ():
        pairs = bucket_pairs(keys[row_of], nodes)
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


def _survivors(earlier: pl.DataFrame, rows: I64) -> pl.DataFrame:
    """`row` and `survivor`, the row that stands for it, of some rows of earlier runs."""
    verdict = earlier[rows].select(id=pl.col("duplicate_of").fill_null(pl.col("id")), row=pl.Series(rows))
    places = earlier.lazy().select("id").with_row_index("survivor").cast({"survivor": pl.Int64})
    found = places.join(verdict.lazy().select("id"), on="id", how="semi").collect()
    return verdict.join(found, on="id", how="left", maintain_order="left")


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
