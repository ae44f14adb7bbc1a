"""The funnel: what became of every request and every text, per template."""

from collections import Counter
from typing import Any

import polars as pl

STATUS = (
    pl.when(pl.col("error").is_not_null())
    .then(pl.lit("failed"))
    .when((pl.col("finish_reason") != "stop") | (pl.col("text").str.strip_chars() == ""))
    .then(pl.lit("rejected"))
    .otherwise(pl.lit("accepted"))
)


def request_counts(generations: pl.DataFrame) -> dict[str, int]:
    """`planned` and its parts `accepted`, `rejected` (cut short or empty) and `failed`."""
    counts = Counter(generations.select(STATUS.alias("status"))["status"].to_list())
    parts = {status: counts[status] for status in ("accepted", "rejected", "failed")}
    return {"planned": generations.height, **parts}


def build_funnel(
    generations: pl.DataFrame, filtered: pl.DataFrame, marked: pl.DataFrame, removed: pl.DataFrame
) -> list[dict[str, Any]]:
    """One line per template, in the order of first use.

    `filtered` has a `reason` (null when kept), `marked` has `duplicate_of` (null when distinct),
    `removed` are the distinct texts that hold what the evaluation asks: they count as `contaminated`.
    """
    lines = []
    for template in generations["template"].unique(maintain_order=True):
        mine = pl.col("template") == template
        requests, texts, kept = generations.filter(mine), filtered.filter(mine), marked.filter(mine)
        num_contaminated = removed.filter(mine).height
        num_different = kept["duplicate_of"].null_count()
        dropped = Counter(texts["reason"].drop_nulls().to_list())
        if kept.height > num_different:
            dropped["duplicate"] = kept.height - num_different
        if num_contaminated:
            dropped["contaminated"] = num_contaminated
        lines.append(
            {
                "template": template,
                **request_counts(requests),
                "texts": texts.height,
                "kept": kept.height,
                "distinct": num_different - num_contaminated,
                "tokens": int(requests["completion_tokens"].sum()),
                "dropped": dict(dropped),
            }
        )
    return lines
