"""Export: chunks + distinct texts -> a Hugging Face data set with a card.

A folder that `datasets.load_dataset(folder)` opens, with two configs:
`text` (default): the documents' chunks and every distinct generated text; `chunks`: the chunks alone.
What decontamination removed is in neither.
Columns: `id`, `text`, `document_id`, `chunk_id`, `source`, `template` (`chunk` for the source itself),
`strategy`, `num_tokens`.
"""

from pathlib import Path
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.decontaminate import NGRAM_WORDS

COLUMNS = ("id", "text", "document_id", "chunk_id", "source", "template", "strategy", "num_tokens")


class ExportSettings(BaseModel):
    """What the data set's card says beyond what the run knows."""

    model_config = ConfigDict(extra="forbid")

    license: str | None = Field(None, description="licence of the documents (an SPDX id); never assumed")
    language: str = Field("en", description="language code of the documents")


def build_rows(chunks: pl.DataFrame, distinct: pl.DataFrame, removed: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:
    """Rows of the `text` config, in corpus order, without those whose `id` is in `removed`.

    `chunks` has `chunk_id`, `document_id`, `source`, `text`; `distinct` has `id`, `chunk_id`, `template`,
    `strategy`, `text`.
    """
    sources = chunks.select(
        pl.col("chunk_id").alias("id"),
        "text",
        "document_id",
        "chunk_id",
        "source",
        pl.lit("chunk").alias("template"),
        pl.lit(None, dtype=pl.String).alias("strategy"),
    )
    # Columns without any value have no type of their own.
    distinct = distinct.select("id", "text", "chunk_id", "template", "strategy").cast(pl.String)
    generated = distinct.join(
        chunks.select("chunk_id", "document_id", "source"), on="chunk_id", maintain_order="left"
    ).select(sources.columns)
    rows = pl.concat([sources, generated]).join(removed, on="id", how="anti", maintain_order="left")
    lengths = [len(ids) for ids in tokenizer(rows["text"].to_list(), add_special_tokens=False)["input_ids"]]
    return rows.with_columns(pl.Series("num_tokens", lengths, dtype=pl.Int32)).select(COLUMNS)


def write_dataset(rows: pl.DataFrame, card: str, folder: Path) -> None:
    """Write both configs and the card."""
    for name, part in (("text", rows), ("chunks", rows.filter(pl.col("template") == "chunk"))):
        path = folder / "data" / name / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_parquet(path)
    (folder / "README.md").write_text(card, encoding="utf-8")


def make_card(
    title: str,
    rows: pl.DataFrame,
    funnel: list[dict[str, Any]],
    generator: dict[str, Any],
    templates: dict[str, str],
    settings: ExportSettings,
    decontamination: dict[str, dict[str, int]] | None,
) -> str:
    """The data set card: YAML that the hub reads, then counts, model, sampling and every template.

    `decontamination` has `texts`, `removed` and `removed_chunks` per evaluation set; None when it was off.
    """
    header: dict[str, Any] = {
        "pretty_name": title,
        "language": settings.language,
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "active-reading"],
        "configs": [
            {"config_name": "text", "data_files": "data/text/*.parquet", "default": True},
            {"config_name": "chunks", "data_files": "data/chunks/*.parquet"},
        ],
    }
    if settings.license:
        header["license"] = settings.license
    columns = ("template", "planned", "accepted", "texts", "kept", "distinct", "tokens")
    table = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    table += [f"| {' | '.join(str(line[column]) for column in columns)} |" for line in funnel]
    reasons = [
        f"- `{line['template']}`: " + ", ".join(f"{reason} {n}" for reason, n in sorted(line["dropped"].items()))
        for line in funnel
        if line["dropped"]
    ]
    num_sources = rows.filter(pl.col("template") == "chunk").height
    license_line = settings.license or "not stated; it follows the documents"
    prompts = [f"### {name}\n\n````jinja\n{source.strip()}\n````" for name, source in templates.items()]
    sampling = [f"- {name}: {value}" for name, value in generator.items()]
    body = [
        f"# {title}",
        f"{num_sources} chunks of {rows['document_id'].n_unique()} documents, and "
        f"{rows.height - num_sources} texts that a language model wrote about them "
        f"({rows['num_tokens'].sum():,} tokens in all). Licence: {license_line}.",
        "## Load",
        '```python\nfrom datasets import load_dataset\n\nload_dataset("path/to/this/folder", split="train")\n```',
        "## Counts",
        "\n".join(table),
        "Dropped, by reason:\n" + "\n".join(reasons) if reasons else "Nothing was dropped.",
        "## Decontamination",
        *_decontamination(decontamination),
        "## Generator",
        "\n".join(sampling),
        "## Templates",
        *prompts,
    ]
    return f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n" + "\n\n".join(body) + "\n"


def _decontamination(counts: dict[str, dict[str, int]] | None) -> list[str]:
    if counts is None:
        return ["Off: texts may hold questions and texts of the evaluation, word for word."]
    lines = [
        f"| {name} | {of['texts']} | {of['removed']} | {of['removed_chunks']} |" for name, of in counts.items()
    ]
    return [
        f"Removed is every text with {NGRAM_WORDS} words in a row of an evaluation text, or all of a shorter one. "
        "Chunks of the documents may quote a gold question in part, and fall only where they hold all of it.",
        "\n".join(
            [
                "| evaluation set | its texts | generated texts removed | chunks removed |",
                "| --- | --- | --- | --- |",
                *lines,
            ]
        ),
    ]
