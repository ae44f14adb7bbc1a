"""Changes: two versions of a data set -> what was added, removed, superseded and relabelled.

- superseded: another text in the place of an old one. Its chunk stands where the old chunk stood in the document
  (chunks of one source are aligned as a diff aligns lines), and template, strategy and turn are the same.
- relabelled: the same text under other labels, such as the path of a renamed document, or the id of a chunk whose
  document changed elsewhere.
- added and removed: the rest.
Only the rows that differ are read with their texts.
"""

from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import polars as pl

from active_reading.augment.export import scan_text

CHANGES = ("added", "removed", "superseded", "relabelled")
SCHEMA = {
    "change": pl.String,
    "id": pl.String,  # null when removed
    "old_id": pl.String,  # null when added
    "source": pl.String,
    "template": pl.String,
    "strategy": pl.String,
}
LABELS = ("source", "template", "strategy")


def compare_versions(old: Path, new: Path) -> pl.DataFrame:
    """One row per changed row of the `text` config of two data set folders, with the columns of SCHEMA."""
    before, after = scan_text(old), scan_text(new)
    same = _fingerprints(before).join(_fingerprints(after), on="id", suffix="_new").collect()
    kept = same.filter(pl.col("words") == pl.col("words_new"))
    moved = kept.filter(pl.col("labels") != pl.col("labels_new")).select("id", old_id="id")
    gone = _others(before, kept)
    come = _others(after, kept)

    same_text = _match(gone, come, ["source", "template", "text"])
    gone, come = _without(gone, come, same_text)
    same_place = _match(*_placed(before, after, gone, come), ["place", "template", "strategy"])
    gone, come = _without(gone, come, same_place)
    pairs = {"relabelled": [moved, same_text], "superseded": [same_place]}

    nothing = pl.lit(None, dtype=pl.String)
    found = [
        ("added", come.select("id", old_id=nothing)),
        ("removed", gone.select(nothing.alias("id"), old_id="id")),
    ]
    found += [(change, part) for change, parts in pairs.items() for part in parts]
    changed = pl.concat([part.with_columns(change=pl.lit(change)) for change, part in found])
    told = pl.concat(
        [
            _labelled(after, changed.filter(pl.col("id").is_not_null()), "id"),
            _labelled(before, changed.filter(pl.col("id").is_null()), "old_id"),
        ]
    )
    order = pl.Enum(CHANGES)
    return told.select(SCHEMA.keys()).sort(pl.col("change").cast(order), "source", "template", "id", "old_id")


def count_changes(changes: pl.DataFrame) -> dict[str, int]:
    """How many rows of each kind, 0 included."""
    counts = Counter(changes["change"].to_list())
    return {change: counts[change] for change in CHANGES}


def describe_changes(counts: dict[str, int]) -> str:
    """One line, such as: 3 added, 0 removed, 1 superseded, 0 relabelled."""
    return ", ".join(f"{counts[change]:,} {change}" for change in CHANGES)


def _fingerprints(rows: pl.LazyFrame) -> pl.LazyFrame:
    # 64 bits tell two texts of one id apart: only those are ever compared by them.
    labels = [name for name in rows.collect_schema().names() if name not in ("id", "text")]
    return rows.select("id", words=pl.col("text").hash(), labels=pl.struct(labels).hash())


def _others(rows: pl.LazyFrame, kept: pl.DataFrame) -> pl.DataFrame:
    columns = ("id", "text", "chunk_id", *LABELS)
    return rows.join(kept.lazy(), on="id", how="anti", maintain_order="left").select(columns).collect()


def _match(gone: pl.DataFrame, come: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Pairs with equal keys: the first of the old with the first of the new, and so on."""
    turn = pl.int_range(pl.len()).over(keys).alias("turn")
    old = gone.with_columns(turn).select(pl.col("id").alias("old_id"), *keys, "turn")
    return come.with_columns(turn).join(old, on=[*keys, "turn"], nulls_equal=True).select("id", "old_id")


def _without(gone: pl.DataFrame, come: pl.DataFrame, pairs: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    left = gone.join(pairs, left_on="id", right_on="old_id", how="anti", maintain_order="left")
    return left, come.join(pairs, on="id", how="anti", maintain_order="left")


def _placed(
    before: pl.LazyFrame, after: pl.LazyFrame, gone: pl.DataFrame, come: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both with `place`: the chunk, of a new row the one that stood there before."""
    sources = sorted(set(gone["source"]) & set(come["source"]))
    old, new = (_chunks(rows, sources) for rows in (before, after))
    places: dict[str, str] = {}
    for source in sources:
        then, now = old.get(source, []), new.get(source, [])
        matcher = SequenceMatcher(None, [text for _, text in then], [text for _, text in now], autojunk=False)
        for _, first, last, start, stop in matcher.get_opcodes():
            for (old_id, _), (new_id, _) in zip(then[first:last], now[start:stop], strict=False):
                places[new_id] = old_id
    placed = come.with_columns(pl.col("chunk_id").replace(places).alias("place"))
    return gone.with_columns(pl.col("chunk_id").alias("place")), placed


def _chunks(rows: pl.LazyFrame, sources: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Id and text of the chunks of each source, in the order of the document."""
    mine = (pl.col("template") == "chunk") & pl.col("source").is_in(sources)
    found: dict[str, list[tuple[str, str]]] = {}
    for source, chunk, text in rows.filter(mine).sort("start").select("source", "id", "text").collect().iter_rows():
        found.setdefault(source, []).append((chunk, text))
    return found


def _labelled(rows: pl.LazyFrame, changed: pl.DataFrame, key: str) -> pl.DataFrame:
    labels = rows.select(pl.col("id").alias(key), *LABELS)
    return changed.lazy().join(labels, on=key).select(SCHEMA.keys()).collect()
