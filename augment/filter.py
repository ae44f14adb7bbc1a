"""Filter: generations -> texts that are kept, and texts that are dropped with a reason.

Every answer becomes one text (or one per question-answer pair), and every text ends as kept or dropped.
Reasons, checked in this order: `too_long` (a prompt beyond the context), `failed`, `truncated` (of
questions cut short only the last falls), `refusal`, `unparsed` (questions without answers),
`too_short`, `ungrounded` (a number, unit, name, quotation or denial that the chunk does not have), `copy`
(of the chunk), `repetition` (the text repeats itself). Question-answer pairs also fall as `given_away`: the
question holds its own answer.
NOT covered: a wrong statement made of the chunk's own names and numbers.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.engine import TOO_LONG
from active_reading.augment.grounded_columns import grounded
from active_reading.augment.grounding import Source, answer_is_grounded, ungrounded_word
from active_reading.augment.identity import content_hash

BATCH = 20_000  # answers at a time: what is known of their chunks is in memory
REFUSAL = re.compile(
    r"\b(as an ai|i(['\u2019]m| am) (sorry|unable|not able|an ai)"
    r"|i (cannot|can['\u2019]t|can not) (help|assist|provide|do|write)"
    r"|i apologi[sz]e|happy to help|language model)\b",
    re.IGNORECASE,
)
PAIR = re.compile(
    r"""
    ^\W*
    (?: (?:\d+[.)]\W*)? (?:Q|Question) (?:\s*\d+)? \W*[:.]\**\s*   # Q: or **Question 2:** or 3. Q:
      | \d+[.)]\W* (?=[^\n]*\?\W*\n) )                             # 3. Who ...?
    (?P<question>[^\n]+) \n+
    \W* (?:A|Answer) (?:\s*\d+)? \W*[:.]\**\s*
    (?!\W*(?:\d+[.)]\W*)?(?:Q|Question)(?:\s*\d+)?\W*[:.])         # an answer left empty is not the next question
    (?P<answer>[^\n]+)
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


class FilterSettings(BaseModel):
    """What a text must satisfy to be kept."""

    model_config = ConfigDict(extra="forbid")

    min_words: int = Field(8, ge=1, description="shorter texts fall (question-answer pairs excepted)")
    max_copied: float = Field(0.8, gt=0, le=1, description="largest share of 8-word runs taken from the chunk")
    max_repeated: float = Field(0.3, gt=0, le=1, description="largest share of 4-word runs seen before")


@dataclass(frozen=True)
class Chunk(Source):
    """What a text is checked against, and its runs of words: what a copy is told by."""

    @cached_property
    def span(self) -> Source:
        """The text alone: an answer stands in it, and not only in the title."""
        return Source(self.text)

    @cached_property
    def runs(self) -> set[tuple[str, ...]]:
        return set(word_runs(self.text, 8))


def filter_generations(
    generations: pl.DataFrame, answers: Mapping[str, str], chunks: pl.DataFrame, settings: FilterSettings
) -> pl.DataFrame:
    """One row per text: the generation's columns, `id`, `text`, `reason` and `detail` (null when kept).

    `answers` maps a template's name to what it answers; strategies only lead to other requests and are
    left out. `chunks` has `chunk_id`, `text`, `title` and, where known, `heading`.
    """
    texts = chunks.select(
        "chunk_id", "text", "title", heading=pl.col("heading") if "heading" in chunks.columns else None
    )
    rows: list[dict[str, Any]] = []
    for batch in generations.iter_slices(BATCH):
        rows += _filter_batch(batch, answers, texts.join(batch, on="chunk_id", how="semi"), settings)
    schema: dict[str, Any] = {**generations.schema, "id": pl.String, "reason": pl.String, "detail": pl.String}
    return pl.DataFrame(rows, schema=schema)


Verdict = tuple[str, str | None, str | None]


def _filter_batch(
    generations: pl.DataFrame, answers: Mapping[str, str], chunks: pl.DataFrame, settings: FilterSettings
) -> Iterator[dict[str, Any]]:
    sources = {
        chunk_id: Chunk(text, f"{title}\n{heading or ''}") for chunk_id, text, title, heading in chunks.iter_rows()
    }
    certain = grounded(generations.select("text", source="chunk_id"), sources)
    for row, is_grounded in zip(generations.iter_rows(named=True), certain, strict=True):
        answer = answers[row["template"]]
        if answer == "strategies":
            continue
        verdicts = check(row, answer, sources[row["chunk_id"]], settings, is_grounded)
        for item, (text, reason, detail) in enumerate(verdicts):
            identifier = content_hash(row["request_id"], item, text)  # asked in another run, it has another answer
            yield {**row, "id": identifier, "text": text, "reason": reason, "detail": detail}


def check(
    row: dict[str, str], answer: str, chunk: Chunk, settings: FilterSettings, is_grounded: bool = False
) -> list[Verdict]:
    """The texts in one generation, each with the reason and detail of its fall (None when kept).

    `is_grounded`: running text of which that is certain already.
    """
    text = row["text"]
    if row["error"]:
        return [(text, TOO_LONG if row["finish_reason"] == TOO_LONG else "failed", row["error"])]
    truncated = row["finish_reason"] != "stop"
    if truncated and answer == "text":
        return [(text, "truncated", f"finish_reason={row['finish_reason']}")]
    for match in REFUSAL.finditer(text):
        if match.group(0).casefold() not in chunk.text.casefold():  # a text about language models may name them
            return [(text, "refusal", match.group(0))]
    if answer == "text":
        return [(text, *_judge_text(text, chunk, settings, is_grounded))]
    pairs = parse_pairs(text)
    if not pairs:
        return [(text, "unparsed", "no question with an answer")]
    verdicts = [
        (f"Question: {question}\nAnswer: {reply}", *_judge_pair(question, reply, chunk))
        for question, reply in pairs
    ]
    if truncated:  # the cut may have gone through the last answer; the pairs before it are whole
        verdicts[-1] = (verdicts[-1][0], "truncated", f"finish_reason={row['finish_reason']}")
    return verdicts


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """(question, answer) pairs in a model's answer, marks such as `Q:` or `**Question 2:**` removed."""
    return [(match["question"].strip(" *"), match["answer"].strip(" *")) for match in PAIR.finditer(text + "\n")]


def _judge_text(
    text: str, chunk: Chunk, settings: FilterSettings, is_grounded: bool
) -> tuple[str | None, str | None]:
    words = text.split()
    if len(words) < settings.min_words:
        return "too_short", f"{len(words)} words"
    if not is_grounded and (word := ungrounded_word(text, chunk)):
        return "ungrounded", word
    runs = word_runs(text, 8)
    copied = sum(run in chunk.runs for run in runs) / len(runs) if runs else 0.0
    if copied > settings.max_copied:
        return "copy", f"{copied:.2f} of the 8-word runs"
    counts = Counter(word_runs(text, 4))
    repeated = 1 - len(counts) / counts.total() if counts else 0.0
    if repeated > settings.max_repeated:
        return "repetition", f"{repeated:.2f} of the 4-word runs"
    return None, None


def _judge_pair(question: str, reply: str, chunk: Chunk) -> tuple[str | None, str | None]:
    if len(question.split()) < 4:
        return "too_short", question
    if word := ungrounded_word(question, chunk):
        return "ungrounded", word
    if not answer_is_grounded(reply, chunk.span):
        return "ungrounded", f"answer '{reply[:80]}'"
    if re.search(rf"\b{re.escape(reply.strip(' .'))}\b", question, re.IGNORECASE):
        return "given_away", reply[:80]
    return None, None


def word_runs(text: str, length: int) -> list[tuple[str, ...]]:
    """Every so many words in a row."""
    words = re.findall(r"\w+", text.casefold())
    return list(zip(*(words[start:] for start in range(length)), strict=False))
