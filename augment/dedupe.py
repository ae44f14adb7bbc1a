"""Dedupe: kept texts -> distinct texts, and duplicates that name what they repeat.

Exact: the same words in the same order (shingles.py says what a word is).
Near: a Jaccard similarity of at least `threshold` between the sets of word shingles. Candidates come from MinHash
bands (minhash.py has their number and their probabilities); each one's similarity is counted on the shingles.
Duplicates are clustered with all they are linked to, through others too, and of each cluster one row survives: a
row of an earlier run, else the best `faithfulness` (where there is such a column), the longest, the smallest id.
The result is the same whatever the order of rows and the number of threads.
By meaning, on request (`semantic_model`): new texts whose embeddings have a cosine of at least `semantic_threshold`
are linked as well; their `similarity`, which counts words, may be anything.

Memory: some 150 bytes a row, and one band of all rows at a time; signatures and shingles lie on disk (540
bytes for a row of 100 words) while they are needed.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import polars as pl
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.clusters import judge
from active_reading.augment.minhash import band_keys, choose_banding
from active_reading.augment.seen import ROWS, VERDICT, Seen
from active_reading.augment.shingles import I64, U64, Shingles, hash_names, shingle
from active_reading.augment.sources import LocalFolder

BATCH_ROWS = 30_000
BATCH_BYTES = 1 << 24  # of text that is hashed together
PART_ROWS = 300_000
FORMAT = 2  # of what is kept of earlier runs


class DedupeSettings(BaseModel):
    """When two texts count as the same."""

    model_config = ConfigDict(extra="forbid")

    threshold: float = Field(0.8, ge=0.5, le=1, description="Jaccard similarity of word shingles")
    shingle_words: int = Field(3, ge=1, description="words per shingle")
    scope: Literal["chunk", "document", "corpus"] = Field("corpus", description="within what texts are compared")
    earlier: LocalFolder = Field(
        "", description="folder that remembers every run's texts: those that repeat an earlier run's fall, too"
    )
    semantic_model: str = Field("", description="folder or id of an embedding model; empty: words alone count")
    semantic_threshold: float = Field(0.95, gt=0, le=1, description="cosine of embeddings that count as the same")


def find_duplicates(texts: pl.LazyFrame, settings: DedupeSettings) -> pl.DataFrame:
    """`id`, `duplicate_of` and `similarity` of the rows that repeat another, by id.

    `texts` has `id` and `text`, `chunk_id` or `document_id` where the scope asks for it, and may have
    `faithfulness`; it is read in batches. Where a text is linked to the survivor through others, their similarity
    may lie below the threshold. With `settings.earlier` the rows are compared with those of earlier runs as well
    (which are not compared again), and remembered; a row that was seen before keeps its verdict.
    Raises ValueError for a missing column, a null, an id that names two texts, and a folder of earlier runs that is
    none.
    """
    banding = choose_banding(settings.threshold)
    with ExitStack() as stack:
        folder = Path(settings.earlier or stack.enter_context(TemporaryDirectory(prefix="dedupe-"))).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"dedupe.earlier: {folder} cannot be a folder ({error.strerror}): name another"
            ) from error
        stack.enter_context(FileLock(folder / ".lock"))  # two runs take turns: the second sees the first's rows
        seen = Seen(folder, settings.model_dump(exclude={"earlier"}) | {"format": FORMAT}, banding[0])
        earlier = seen.finished_rows()
        known, new = _read(texts, settings, banding, seen, earlier)
        by_meaning = partial(_alike, texts, settings) if settings.semantic_model and new.height else None
        verdicts = judge(new, earlier, seen, settings.threshold, by_meaning)
        if settings.earlier:
            seen.finish(verdicts)
    found = pl.concat([known, new.select("id").hstack(verdicts)])
    return found.filter(pl.col("duplicate_of").is_not_null()).sort("id")


def cluster_table(repeats: pl.DataFrame) -> pl.DataFrame:
    """`cluster` (the survivor's id), `id` and `similarity` to the survivor, from what `find_duplicates` found.

    Every cluster of two or more, its survivor (of this run or an earlier one) included.
    """
    survivors = repeats.select(cluster="duplicate_of", id="duplicate_of", similarity=pl.lit(1.0)).unique()
    others = repeats.select(pl.col("duplicate_of").alias("cluster"), "id", "similarity")
    return pl.concat([survivors, others]).sort("cluster", "id")


def _read(
    texts: pl.LazyFrame, settings: DedupeSettings, banding: tuple[int, int], seen: Seen, earlier: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The verdicts of rows seen before, and the others (ROWS), which are written to `seen`."""
    ids = _ids(texts)
    again = earlier.select("id", "exact", *VERDICT).join(ids, on="id", how="semi")  # few, where there are millions
    before = ids.join(again, on="id", how="left", maintain_order="left")
    known, new, start = [pl.DataFrame(schema={"id": pl.String, **VERDICT})], [pl.DataFrame(schema=ROWS)], 0
    pending: list[tuple[pl.DataFrame, Shingles, U64]] = []
    for read in _batches(texts, settings):
        batch = read.hstack(before.slice(start, read.height).drop("id"))
        start += read.height
        again = batch.filter(pl.col("exact").is_not_null())
        if again.height:
            known.append(_same_texts(again, settings))
        batch = batch.filter(pl.col("exact").is_null())
        shingles, group = _shingle(batch, settings)
        new.append(batch.select("id", pl.Series("exact", shingles.exact), "length", "faithfulness"))
        pending.append((new[-1], shingles, band_keys(shingles.values, shingles.offsets, banding) ^ group))
        if sum(rows.height for rows, _, _ in pending) >= PART_ROWS:
            _write(pending, seen)
    _write(pending, seen)
    return pl.concat(known), pl.concat(new)


def _ids(texts: pl.LazyFrame) -> pl.DataFrame:
    names = texts.collect_schema().names()
    for name in ("id", "text"):
        if name not in names:
            raise ValueError(f"dedupe: the texts have no column '{name}' (only {', '.join(names)})")
    ids = texts.select(pl.col("id").cast(pl.String)).collect(engine="streaming")
    if ids["id"].n_unique() < ids.height:
        twice = ids.filter(pl.col("id").is_duplicated())["id"].sort()[0]
        raise ValueError(f"dedupe: id '{twice}' names more than one row: give every row an id of its own")
    return ids


def _alike(texts: pl.LazyFrame, settings: DedupeSettings, ids: pl.Series) -> tuple[I64, I64]:
    from active_reading.augment.meaning import embed, links

    wanted = [batch.filter(pl.col("id").is_in(ids.implode())) for batch in _batches(texts, settings)]
    rows = ids.to_frame("id").join(pl.concat(wanted), on="id", how="left", maintain_order="left")
    vectors = embed(rows["text"].to_list(), settings.semantic_model)
    return links(vectors, rows["group"].to_list(), settings.semantic_threshold)


def _batches(texts: pl.LazyFrame, settings: DedupeSettings) -> Iterator[pl.DataFrame]:
    """id, text, group, length (characters) and faithfulness, some megabytes of text at a time."""
    names = texts.collect_schema().names()
    group = {"chunk": "chunk_id", "document": "document_id"}.get(settings.scope)
    if group and group not in names:
        raise ValueError(f"dedupe.scope={settings.scope}: the texts have no column '{group}'")
    faithfulness = pl.col("faithfulness") if "faithfulness" in names else pl.lit(None)
    wanted = texts.select(
        pl.col("id", "text").cast(pl.String),
        group=(pl.col(group) if group else pl.lit("")).cast(pl.String),
        length=pl.col("text").cast(pl.String).str.len_chars(),
        faithfulness=faithfulness.cast(pl.Float64).fill_nan(None),
    )
    for batch in wanted.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
        for column in ("id", "text", "group"):
            if batch[column].null_count():
                row = batch.filter(pl.col(column).is_null())["id"][0]
                name = group if column == "group" else column
                raise ValueError(f"dedupe: {name} of row '{row}' is null: leave the row out, or give it one")
        part = batch["text"].str.len_bytes().cast(pl.Int64).cum_sum() // BATCH_BYTES
        yield from batch.with_columns(part=part).partition_by("part", include_key=False)


def _shingle(batch: pl.DataFrame, settings: DedupeSettings) -> tuple[Shingles, U64]:
    """Shingles, and a number per row that differs between groups; the exact hash has it in it."""
    shingles = shingle(batch["text"], settings.shingle_words)
    if settings.scope == "corpus":
        return shingles, np.zeros(batch.height, np.uint64)
    group = hash_names(batch["group"])
    return replace(shingles, exact=shingles.exact ^ group), group


def _same_texts(again: pl.DataFrame, settings: DedupeSettings) -> pl.DataFrame:
    changed = again.filter(pl.col("exact") != pl.Series(_shingle(again, settings)[0].exact))
    if changed.height:
        raise ValueError(
            f"dedupe: in an earlier run the id '{changed['id'][0]}' named another text: give the text an id of its "
            f"own, or remove the folder {settings.earlier}"
        )
    return again.select("id", *VERDICT)


def _write(pending: list[tuple[pl.DataFrame, Shingles, U64]], seen: Seen) -> None:
    if rows := [rows for rows, _, _ in pending if rows.height]:
        seen.write(
            pl.concat(rows),
            np.concatenate([shingles.values for _, shingles, _ in pending]),
            np.concatenate([np.diff(shingles.offsets) for _, shingles, _ in pending]),
            np.concatenate([keys for _, _, keys in pending], axis=1),
        )
    pending.clear()
