"""The funnel: what became of every request and every text, per template."""

from collections import Counter
from typing import Any

import polars as pl

from active_reading.augment.engine import TOO_LONG

# Why a request is rejected; null for the others. The text of a rejected one stays in its row.
REJECTION = (
    pl.when(pl.col("finish_reason") == TOO_LONG)
    .then(pl.lit("too_long"))
    .when(pl.col("error").is_not_null())
    .then(pl.lit(None, dtype=pl.String))
    .when(pl.col("finish_reason") == "repetition")
    .then(pl.lit("repetition"))
    .when(pl.col("finish_reason") != "stop")
    .then(pl.lit("truncated"))
    .when(pl.col("text").str.strip_chars() == "")
    .then(pl.lit("empty"))
)
STATUS = (
    pl.when(REJECTION.is_not_null())
    .then(pl.lit("rejected"))
    .when(pl.col("error").is_not_null())
    .then(pl.lit("failed"))
    .otherwise(pl.lit("accepted"))
)


def request_counts(generations: pl.DataFrame, num_planned: int) -> dict[str, int]:
    """`planned`, as whoever planned counts, and what the rows say: `accepted`, `rejected` and `failed`."""
    counts = Counter(generations.select(STATUS.alias("status"))["status"].to_list())
    parts = {status: counts[status] for status in ("accepted", "rejected", "failed")}
    return {"planned": num_planned, **parts}


def rejection_counts(generations: pl.DataFrame) -> dict[str, int]:
    """How many requests were rejected for each reason, the most frequent first."""
    reasons = generations.select(REJECTION.alias("reason"))["reason"].drop_nulls().to_list()
    return dict(Counter(sorted(reasons)).most_common())


def check_requests(counts: dict[str, int]) -> None:
    """Raises RuntimeError when a planned request was lost, or a row was never planned."""
    if counts["planned"] != counts["accepted"] + counts["rejected"] + counts["failed"]:
        raise RuntimeError(f"requests do not add up: {counts}")


def describe_requests(counts: dict[str, int], rejections: dict[str, int]) -> str:
    """One line, such as: planned 9 = accepted 6 + rejected 2 (truncated 2) + failed 1."""
    reasons = f" ({', '.join(f'{reason} {n}' for reason, n in rejections.items())})" if rejections else ""
    parts = f"accepted {counts['accepted']} + rejected {counts['rejected']}{reasons} + failed {counts['failed']}"
    return f"planned {counts['planned']} = {parts}"


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
                **request_counts(requests, requests.height),  # checked against the plan when they were made
                "texts": texts.height,
                "kept": kept.height,
                "distinct": num_different - num_contaminated,
                "tokens": int(requests["completion_tokens"].sum()),
                "prompt_tokens": int(requests["prompt_tokens"].sum()),
                "cached_tokens": int(requests["cached_tokens"].sum()),
                "dropped": dict(dropped),
            }
        )
    return lines
