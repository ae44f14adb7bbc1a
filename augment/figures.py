"""Figures: how faithful and how different the texts of a data set are, per template. Cheap and lexical.

Grounded: of the texts that were checked against their chunk, the share that names no number and no name which the
chunk lacks (augment/grounding.py). A statement made of the chunk's own words may still be wrong.
Distinct: different runs of three words over all of them, in a sample of the texts together (distinct-3 of Li et
al. 2016, https://arxiv.org/abs/1510.03055). It falls as the sample grows: compare only samples of one size.
Copied: mean share of a text's runs of four words that its chunk has, with one standard error over texts.
"""

import math
from typing import Any

import polars as pl

from active_reading.augment.filter import word_runs

SAMPLE = 500  # texts of each template
DISTINCT_WORDS = 3
COPIED_WORDS = 4
UNCHECKED = ("failed", "too_long", "truncated", "refusal", "unparsed", "too_short")  # they fall before the check


def faithfulness(funnel: list[dict[str, Any]]) -> dict[str, dict[str, float | int]]:
    """Per template `checked`, how many texts were compared with their chunk, and the share `grounded`."""
    figures: dict[str, dict[str, float | int]] = {}
    for line in funnel:
        checked = line["texts"] - sum(line["dropped"].get(reason, 0) for reason in UNCHECKED)
        if checked:
            share = 1 - line["dropped"].get("ungrounded", 0) / checked
            figures[line["template"]] = {"checked": checked, "grounded": share}
    return figures


def diversity(rows: pl.LazyFrame, chunks: pl.DataFrame) -> list[dict[str, Any]]:
    """Per template `template`, `sample`, `distinct`, `copied` and `copied_error`; in the order of first use.

    `rows` has the columns of the `text` config; `chunks` has `chunk_id` and `text`.
    """
    sources = dict(chunks.select("chunk_id", "text").iter_rows())
    lines = []
    for template in rows.select(pl.col("template").unique(maintain_order=True)).collect()["template"]:
        # Ids are hashes: the smallest of them are a random sample, and always the same one.
        mine = rows.filter(pl.col("template") == template).sort("id").head(SAMPLE)
        sample = mine.select("text", "chunk_id").collect()
        seen = [run for text in sample["text"] for run in word_runs(text, DISTINCT_WORDS)]
        line = {
            "template": template,
            "sample": sample.height,
            "distinct": len(set(seen)) / len(seen) if seen else None,
            "copied": None,
            "copied_error": None,
        }
        if template != "chunk":
            shares = pl.Series(
                [_copied(text, sources[chunk]) for text, chunk in sample.iter_rows()], dtype=pl.Float64
            )
            shares = shares.drop_nulls()
            spread = shares.std()  # null of fewer than two
            line |= {
                "copied": shares.mean(),
                "copied_error": None if spread is None else spread / math.sqrt(len(shares)),
            }
        lines.append(line)
    return lines


def _copied(text: str, chunk: str) -> float | None:
    runs = word_runs(text, COPIED_WORDS)
    known = set(word_runs(chunk, COPIED_WORDS))
    return sum(run in known for run in runs) / len(runs) if runs else None
