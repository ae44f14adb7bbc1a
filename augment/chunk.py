"""Chunk: documents -> spans of whole paragraphs or sentences within a token budget.

Out: `chunks.parquet` columns `chunk_id`, `document_id`, `start`, `end` (characters, so that
`text == document[start:end]`), `num_tokens`, `text`.
Paragraphs are kept whole where they fit, then sentences, then words, then characters.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.identity import content_hash

Span = tuple[int, int]
# From coarse to fine: what ends a unit. Each unit keeps its own closing mark and the space after it.
_BOUNDARIES = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n"),
    re.compile(r"\s+"),
)
# Tokenizers slow down on very long strings: documents are tokenised in windows of this many characters.
_WINDOW_CHARS = 20_000
_SCHEMA = {
    "chunk_id": pl.String,
    "document_id": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "num_tokens": pl.Int64,
    "text": pl.String,
}


class ChunkSettings(BaseModel):
    """How long a chunk may be."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int = Field(256, ge=16, description="token budget of one chunk, in the model's tokens")


class TokenCounter:
    """Counts the tokens of any span of one text, after tokenising the text once."""

    def __init__(self, text: str, tokenizer: Any) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        for offset in range(0, len(text), _WINDOW_CHARS):
            window = text[offset : offset + _WINDOW_CHARS]
            encoded = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True)
            self.starts += [offset + start for start, _ in encoded["offset_mapping"]]
            self.ends += [offset + end for _, end in encoded["offset_mapping"]]

    def count(self, start: int, end: int) -> int:
        """Number of tokens that lie in `text[start:end]`, in full or in part.

        A token often begins with the space before its word, so that a span may begin inside a token.
        """
        return bisect_left(self.starts, end) - bisect_right(self.ends, start)

    def longest(self, start: int, end: int, max_tokens: int) -> int:
        """Largest cut point so that `text[start:cut]` stays within the budget."""
        index = bisect_right(self.ends, start) + max_tokens
        cut = self.starts[index] if index < len(self.starts) else end
        return max(start + 1, min(cut, end))


def chunk_documents(documents: pl.DataFrame, tokenizer: Any, settings: ChunkSettings) -> pl.DataFrame:
    """Cut every document; see the module for the columns."""
    rows: list[dict[str, object]] = []
    for document in documents.iter_rows(named=True):
        text = document["text"]
        counter = TokenCounter(text, tokenizer)
        for start, end in chunk_spans(text, counter, settings.max_tokens):
            rows.append(
                {
                    "chunk_id": content_hash(document["document_id"], start, end),
                    "document_id": document["document_id"],
                    "start": start,
                    "end": end,
                    "num_tokens": counter.count(start, end),
                    "text": text[start:end],
                }
            )
    return pl.DataFrame(rows, schema=_SCHEMA)


def chunk_spans(text: str, counter: TokenCounter, max_tokens: int) -> list[Span]:
    """Spans that cover all text but the white space between them, each within the budget."""
    spans: list[Span] = []
    current: Span | None = None
    for start, end in _units(text, (0, len(text)), counter, max_tokens, level=0):
        if current and _num_tokens(text, (current[0], end), counter) <= max_tokens:
            current = (current[0], end)
            continue
        if current:
            spans.append(current)
        current = (start, end)
    if current:
        spans.append(current)
    return [span for span in (_strip(text, span) for span in spans) if span[0] < span[1]]


def _units(text: str, span: Span, counter: TokenCounter, max_tokens: int, level: int) -> Iterator[Span]:
    """Pieces of `span`, each within the budget, cut at the coarsest boundary that fits."""
    start, end = span
    if _num_tokens(text, span, counter) <= max_tokens:
        yield span
    elif level == len(_BOUNDARIES):
        while start < end:
            cut = counter.longest(start, end, max_tokens)
            yield (start, cut)
            start = cut
    else:
        for piece in _split(text, span, _BOUNDARIES[level]):
            yield from _units(text, piece, counter, max_tokens, level + 1)


def _num_tokens(text: str, span: Span, counter: TokenCounter) -> int:
    """Tokens of the span without the white space around it, which no chunk keeps."""
    return counter.count(*_strip(text, span))


def _split(text: str, span: Span, boundary: re.Pattern[str]) -> Iterator[Span]:
    start = span[0]
    for match in boundary.finditer(text, *span):
        yield (start, match.end())
        start = match.end()
    if start < span[1]:
        yield (start, span[1])


def _strip(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end)
