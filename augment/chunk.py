"""Chunk: documents -> spans of whole paragraphs or sentences within a token budget.

Out: `chunks.parquet` columns `chunk_id`, `document_id`, `start`, `end` (characters, so that
`text == document[start:end]`), `num_tokens`, `heading` (the Markdown headings above its start, outermost
first, joined by " > "), `text`.
Paragraphs are kept whole where they fit, then sentences (of scripts without spaces, too), then words, then
characters. With an overlap each chunk but the first begins with the end of the one before.
"""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from active_reading.augment.identity import content_hash

Span = tuple[int, int]
# From coarse to fine: what ends a unit. Each unit keeps its own closing mark and the space after it.
_BOUNDARIES = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(
        r"(?<=[.!?\u061f\u06d4\u0964])[\"')\]\u201d]*\s+|\n"
        r"|(?<=[\u3002\uff01\uff1f])(?![\u3002\uff01\uff1f])[\u300d\u300f\u201d\uff09]*\s*"
    ),
    re.compile(r"\s+"),
)
_HEADING = re.compile(r"^(?:(?P<fence>```|~~~)|(?P<marks>#{1,6})[ \t]+(?P<title>[^\n]+))", re.MULTILINE)
_CLOSING = re.compile(r"(?:^|[ \t]+)#+$")  # marks that a heading may end with; those of C# belong to the word
# Tokenizers slow down on very long strings: documents are tokenised in windows of this many characters.
_WINDOW_CHARS = 20_000
_SCHEMA = {
    "chunk_id": pl.String,
    "document_id": pl.String,
    "start": pl.Int64,
    "end": pl.Int64,
    "num_tokens": pl.Int64,
    "heading": pl.String,
    "text": pl.String,
}


class ChunkSettings(BaseModel):
    """How long a chunk may be."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int = Field(256, ge=16, description="token budget of one chunk, in the model's tokens")
    overlap_tokens: int = Field(0, ge=0, description="at most so many of them repeat the chunk before")

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.overlap_tokens > self.max_tokens // 2:
            raise ValueError(
                f"overlap_tokens={self.overlap_tokens} is more than half of max_tokens={self.max_tokens}"
            )
        return self


class TokenCounter:
    """Counts the tokens of any span of one text, after tokenising the text once."""

    def __init__(self, text: str, tokenizer: Any) -> None:
        self.starts = array("q")  # 16 bytes a token: a long document has many millions
        self.ends = array("q")
        for offset in range(0, len(text), _WINDOW_CHARS):
            window = text[offset : offset + _WINDOW_CHARS]
            encoded = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True)
            self.starts.extend([offset + start for start, _ in encoded["offset_mapping"]])
            self.ends.extend([offset + end for _, end in encoded["offset_mapping"]])

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
        headings = find_headings(text)
        for start, end in chunk_spans(text, counter, settings.max_tokens, settings.overlap_tokens):
            rows.append(
                {
                    "chunk_id": content_hash(document["document_id"], start, end),
                    "document_id": document["document_id"],
                    "start": start,
                    "end": end,
                    "num_tokens": counter.count(start, end),
                    "heading": heading_above(headings, start),
                    "text": text[start:end],
                }
            )
    return pl.DataFrame(rows, schema=_SCHEMA)


def find_headings(text: str) -> list[tuple[int, str]]:
    """(end of the line, headings in force after it, outermost first) for every Markdown heading."""
    found: list[tuple[int, str]] = []
    stack: list[tuple[int, str]] = []
    in_code = False
    for match in _HEADING.finditer(text):
        if match["fence"]:
            in_code = not in_code
        elif not in_code and (title := _CLOSING.sub("", match["title"].strip())):
            level = len(match["marks"])
            stack = [*(above for above in stack if above[0] < level), (level, title)]
            found.append((match.end(), " > ".join(name for _, name in stack)))
    return found


def heading_above(headings: list[tuple[int, str]], start: int) -> str:
    """The headings in force at `start`; those that a chunk itself begins with are not above it."""
    place = bisect_right(headings, start, key=lambda heading: heading[0])
    return headings[place - 1][1] if place else ""


def chunk_spans(text: str, counter: TokenCounter, max_tokens: int, overlap_tokens: int = 0) -> list[Span]:
    """Spans that cover all text but the white space between them, each within the budget.

    With an overlap each span but the first begins up to so many tokens inside the one before, at a sentence
    where one begins there, else at a word.
    """
    spans = _disjoint_spans(text, counter, max_tokens - overlap_tokens)
    if not overlap_tokens:
        return spans
    begins = [
        (_overlap_start(text, before, after[0], counter, overlap_tokens)) for before, after in pairwise(spans)
    ]
    return [*spans[:1], *((begin, span[1]) for begin, span in zip(begins, spans[1:], strict=True))]


def _overlap_start(text: str, before: Span, start: int, counter: TokenCounter, overlap_tokens: int) -> int:
    """Where a chunk that would begin at `start` begins in the one before it, never at that one's own start."""
    for boundary in _BOUNDARIES[1:]:
        for match in boundary.finditer(text, *before):
            if before[0] < match.end() < start and counter.count(match.end(), start) <= overlap_tokens:
                return match.end()
    return start


def _disjoint_spans(text: str, counter: TokenCounter, max_tokens: int) -> list[Span]:
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
