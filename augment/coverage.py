"""Coverage: which sentences and numbers of the documents no text of the data set mentions.

A text mentions a sentence of its chunk when it has at least half of the sentence's different content words (those
of four letters or more, and those with a digit), and a number when it has the number. Cheap and lexical: a sentence
told in other words altogether counts as not mentioned, and one without a content word is left out.
"""

import polars as pl

MENTIONED = 0.5  # of a sentence's content words
BATCH_CHUNKS = 2000
# A mark ends a sentence before white space, so that 3.5 and U.S. stay whole; of CJK scripts always.
SENTENCE = r"(?:[^.!?\n\u3002\uff01\uff1f]|[.!?][^\s.!?])+[.!?\u3002\uff01\uff1f]*"
WORD = r"\w+(?:[.,]\d+)*"
CONTENT = r"^.{4,}$|\d"
SCHEMA = {
    "document_id": pl.String,
    "chunk_id": pl.String,
    "kind": pl.String,  # sentence or number
    "text": pl.String,
    "mentioned": pl.Boolean,
}


def coverage(chunks: pl.DataFrame, texts: pl.LazyFrame) -> pl.DataFrame:
    """SCHEMA: every sentence and number of the chunks, in their order, and whether a text of its chunk mentions it.

    `chunks` has `document_id`, `chunk_id` and `text`; `texts` has `chunk_id` and `text`.
    """
    parts = [pl.DataFrame(schema=SCHEMA)]
    for some in chunks.iter_slices(BATCH_CHUNKS):
        written = texts.filter(pl.col("chunk_id").is_in(some["chunk_id"].implode())).select("chunk_id", "text")
        words = _words(written.collect().with_row_index("writer"), "writer")
        units = _units(some).with_row_index("unit")
        shared = _words(units, "unit").join(words, on=["chunk_id", "word"]).group_by("unit", "writer").len()
        most = shared.group_by("unit").agg(pl.col("len").max().alias("most"))
        wanted = _words(units, "unit").group_by("unit").len("words")
        judged = units.join(wanted, on="unit").join(most, on="unit", how="left").sort("unit")
        enough = pl.when(kind="number").then(1.0).otherwise(MENTIONED) * pl.col("words")
        parts.append(judged.with_columns(mentioned=pl.col("most").fill_null(0) >= enough).select(SCHEMA.keys()))
    return pl.concat(parts)


def by_document(rows: pl.DataFrame) -> pl.DataFrame:
    """`document_id`, and how many `sentences` and `numbers` it has and how many are `..._mentioned`."""
    counts = [
        expression
        for kind in ("sentence", "number")
        for expression in (
            pl.col("kind").filter(kind=kind).len().alias(f"{kind}s"),
            pl.col("mentioned").filter(kind=kind).sum().alias(f"{kind}s_mentioned"),
        )
    ]
    return rows.group_by("document_id", maintain_order=True).agg(*counts).cast({pl.UInt32: pl.Int64})


def _units(chunks: pl.DataFrame) -> pl.DataFrame:
    """`document_id`, `chunk_id`, `kind` and `text` of every sentence, and of every number once a chunk."""
    found = [
        chunks.select(
            "document_id",
            "chunk_id",
            pl.lit(kind).alias("kind"),
            pl.col("text").str.extract_all(pattern).list.eval(pl.element().str.strip_chars()).alias("text"),
        )
        .explode("text")
        .drop_nulls("text")
        for kind, pattern in (("sentence", SENTENCE), ("number", WORD))
    ]
    numbers = found[1].filter(pl.col("text").str.contains(r"^\d")).unique(["chunk_id", "text"], maintain_order=True)
    places = chunks.select("chunk_id").with_row_index("place")
    together = pl.concat([found[0], numbers]).join(places, on="chunk_id", how="left", maintain_order="left")
    return together.sort("place", maintain_order=True).drop("place")


def _words(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """`chunk_id`, `name` and `word`: the different content words of each row."""
    words = pl.col("text").str.to_lowercase().str.extract_all(WORD).alias("word")
    exploded = rows.select("chunk_id", name, words).explode("word").drop_nulls("word")
    return exploded.filter(pl.col("word").str.contains(CONTENT)).unique()
