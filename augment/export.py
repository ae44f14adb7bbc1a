"""Export: chunks + distinct texts -> the rows of a data set, in every form that trainers read.

A folder that `datasets.load_dataset(folder)` opens, with four configs, each a folder of Parquet shards:
- `text` (default): the documents' chunks and every distinct generated text, to continue pretraining. Columns
  `id`, `text`, `document_id`, `chunk_id`, `source`, `title`, `start` and `end` (the chunk's characters in its
  document), `template` (`chunk` for the source itself), `strategy`, `request_id`, `question` and `answer` (of
  question-answer texts), `num_tokens`;
- `messages`: the same rows as one turn of a user and one of the assistant;
- `prompt_completion`: the same rows in two parts, which are read as one string;
- `chunks`: the chunks alone, with the columns of `text`.
A question-answer text is its own question and answer. Any other text answers an instruction that names its
document, and the strategy if there was one; the document itself is in no prompt. Tokens are those of the text, or
of both parts, without the marks that a chat template adds.
What decontamination removed is in none of them, and a title that it found is hidden by the document's id.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

from active_reading.augment.decontaminate import TITLE as HIDDEN

COLUMNS = (
    *("id", "text", "document_id", "chunk_id", "source", "title", "start", "end", "template", "strategy"),
    *("request_id", "question", "answer", "num_tokens"),
)
CONFIGS = ("text", "messages", "prompt_completion", "chunks")
ORIGIN = ("document_id", "chunk_id", "source", "template", "strategy")
PAIR = r"^Question: (?P<question>[^\n]+)\nAnswer: (?P<answer>[^\n]+)$"  # as augment/filter.py writes them
TITLE = "{title}"
BATCH_ROWS = 10_000
GROUP_ROWS = 10_000  # of a Parquet row group: small enough to look at one without reading the others
SHARD_BYTES = 500_000_000  # in memory, as `datasets` cuts its shards


class ExportSettings(BaseModel):
    """What the data set says beyond what the run knows."""

    model_config = ConfigDict(extra="forbid")

    license: str | None = Field(None, description="licence of the documents (an SPDX id); never assumed")
    licenses: dict[str, str] = Field(
        {}, description="licences of single documents, by patterns of their paths such as 'news/*'; the first wins"
    )
    language: str = Field("en", description="language code of the documents")
    instruction: str = Field(
        f"Write down what you know about: {TITLE}",
        description="what a text answers in the views messages and prompt_completion, unless it has a question",
    )

    @field_validator("instruction")
    @classmethod
    def _names_the_document(cls, instruction: str) -> str:
        if TITLE not in instruction:
            raise ValueError(f"must hold {TITLE}, or the same would be asked of every document")
        return instruction


def scan_text(folder: Path) -> pl.LazyFrame:
    """The rows of the `text` config of a data set folder."""
    return pl.scan_parquet(folder / "data" / "text" / "*.parquet")


def count_rows(folder: Path) -> tuple[int, int]:
    """How many rows the `text` config has, and how many tokens."""
    counts = scan_text(folder).select(pl.len().cast(pl.Int64), pl.col("num_tokens").cast(pl.Int64).sum())
    rows, tokens = counts.collect().row(0)
    return rows, tokens


def make_rows(
    chunks: pl.DataFrame, distinct: pl.LazyFrame, removed: pl.DataFrame, answers: Mapping[str, str], tokenizer: Any
) -> Iterator[pl.DataFrame]:
    """Rows of the `text` config, in corpus order and batch by batch, without what decontamination found.

    `removed` has the `id` and `template` of rows, and of documents with the template `title`. `chunks` has
    `chunk_id`, `document_id`, `source`, `title`, `start`, `end`, `text`; `distinct` has `id`, `request_id`,
    `chunk_id`, `template`, `strategy`, `text`; `answers` says what each template answers.
    """
    hidden = removed.filter(template=HIDDEN)["id"].implode()
    title = pl.when(pl.col("document_id").is_in(hidden)).then("document_id").otherwise("title")
    chunks = chunks.with_columns(title.alias("title"))
    asking = [template for template, answer in answers.items() if answer == "questions"]
    for batch in chunks.iter_slices(BATCH_ROWS):
        absent = {name: pl.lit(None, dtype=pl.String) for name in ("strategy", "request_id")}
        sources = batch.with_columns(pl.col("chunk_id").alias("id"), template=pl.lit("chunk"), **absent)
        yield _complete(sources, removed, [], tokenizer)
    # Columns without any value have no type of their own.
    written = distinct.select("id", "request_id", "chunk_id", "template", "strategy", "text").cast(pl.String)
    places = chunks.select("chunk_id", "document_id", "source", "title", "start", "end")
    for offset in range(0, written.select(pl.len()).collect().item(), BATCH_ROWS):
        batch = written.slice(offset, BATCH_ROWS).collect()
        yield _complete(batch.join(places, on="chunk_id", maintain_order="left"), removed, asking, tokenizer)


def _complete(rows: pl.DataFrame, removed: pl.DataFrame, asking: list[str], tokenizer: Any) -> pl.DataFrame:
    rows = rows.join(removed, on="id", how="anti", maintain_order="left")
    parts = pl.when(pl.col("template").is_in(asking)).then("text").str.extract_groups(PAIR)
    rows = rows.with_columns(parts.struct.field("question", "answer"))
    return rows.with_columns(_num_tokens(rows["text"], tokenizer).alias("num_tokens")).select(COLUMNS)


def write_dataset(batches: Iterator[pl.DataFrame], instruction: str, tokenizer: Any, folder: Path) -> None:
    """Write every config below `folder/data`; only the rows of one shard are in memory at a time."""
    shards = {config: _Shards(folder / "data" / config) for config in CONFIGS}
    for rows in batches:
        shards["text"].add(rows)
        shards["chunks"].add(rows.filter(pl.col("template") == "chunk"))
        shards["messages"].add(as_messages(rows, instruction, tokenizer))
        shards["prompt_completion"].add(as_prompts(rows, instruction, tokenizer))
    for writer in shards.values():
        writer.close()


def as_messages(rows: pl.DataFrame, instruction: str, tokenizer: Any) -> pl.DataFrame:
    """`id`, `messages` (`role` and `content` of two turns), where it comes from, `num_tokens`."""
    rows = rows.with_columns(
        pl.coalesce("question", _instruction(instruction)).alias("prompt"),
        pl.coalesce("answer", "text").alias("completion"),
    )
    answers = pl.coalesce(_num_tokens(rows["answer"], tokenizer), "num_tokens")
    turns = [
        pl.struct(pl.lit(role).alias("role"), pl.col(part).alias("content"))
        for role, part in (("user", "prompt"), ("assistant", "completion"))
    ]
    return rows.select(
        "id",
        pl.concat_list(turns).alias("messages"),
        *ORIGIN,
        (answers + _num_tokens(rows["prompt"], tokenizer)).alias("num_tokens"),
    )


def as_prompts(rows: pl.DataFrame, instruction: str, tokenizer: Any) -> pl.DataFrame:
    """`id`, `prompt`, `completion`, where it comes from, `num_tokens`; the two parts are read without a gap."""
    is_pair = pl.col("question").is_not_null()
    split = pl.concat_str(pl.lit("Question: "), "question", pl.lit("\nAnswer:"))
    asked = pl.concat_str(_instruction(instruction), pl.lit("\n\n"))
    rows = rows.with_columns(
        pl.when(is_pair).then(split).otherwise(asked).alias("prompt"),
        pl.when(is_pair).then(pl.concat_str(pl.lit(" "), "answer")).otherwise("text").alias("completion"),
    )
    # The two parts of a question-answer text are the text.
    before = pl.when(is_pair).then(0).otherwise(_num_tokens(rows["prompt"], tokenizer))
    num_tokens = (before + pl.col("num_tokens")).cast(pl.Int32).alias("num_tokens")
    return rows.select("id", "prompt", "completion", *ORIGIN, num_tokens)


def _instruction(instruction: str) -> pl.Expr:
    """The instruction with the title in its place, and the strategy below it."""
    first, *others = instruction.split(TITLE)
    parts = [pl.lit(first), *(part for text in others for part in (pl.col("title"), pl.lit(text)))]
    strategy = pl.concat_str(pl.lit("\n"), "strategy").fill_null("")
    return pl.concat_str(*parts, strategy)


def _num_tokens(texts: pl.Series, tokenizer: Any) -> pl.Series:
    """Tokens of each text, null for null; equal texts are tokenized once."""
    different = texts.drop_nulls().unique(maintain_order=True)
    if different.is_empty():
        return pl.Series(texts.name, [None] * len(texts), dtype=pl.Int32)
    lengths = [len(ids) for ids in tokenizer(different.to_list(), add_special_tokens=False)["input_ids"]]
    return texts.replace_strict(different, lengths, default=None, return_dtype=pl.Int32)


class _Shards:
    """Writes the rows of one config as shards, whose names say how many there are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.waiting: list[pl.DataFrame] = []
        self.written: list[Path] = []

    def add(self, rows: pl.DataFrame) -> None:
        if rows.is_empty() and (self.waiting or self.written):
            return  # one empty shard still says which columns there are
        self.waiting.append(rows)
        if rows.height and sum(frame.estimated_size() for frame in self.waiting) >= SHARD_BYTES:
            self._write()

    def close(self) -> None:
        if self.waiting:
            self._write()
        for number, path in enumerate(self.written):
            path.rename(self.folder / f"train-{number:05d}-of-{len(self.written):05d}.parquet")

    def _write(self) -> None:
        path = self.folder / f"{len(self.written)}.partial"
        pl.concat(self.waiting).write_parquet(path, row_group_size=GROUP_ROWS)
        self.written.append(path)
        self.waiting = []
