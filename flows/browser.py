"""The browser of answers: gold questions with every model's answer, led back to training texts and their passages.

Under a question stand the training texts that hold an accepted answer, word for word: those of its document, or of
any document where it names none that is known. Written texts come before plain chunks, and of each kind those
first that have most of the question's words.
"""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from active_reading.eval.scores import normalize_answer

MOST_SAMPLES = 5000  # questions
TEXTS_A_SAMPLE = 3
MOST_WEIGHED = 1000  # texts that hold an answer, of which the best are shown
LONGEST_TEXT = 1500  # characters of a training text or passage
MOST_BYTES = 3_000_000  # of all texts and passages in UTF-8; packed, they are about half as long in the page
CHUNK = "chunk"  # the template of passages that are trained on as they stand
Row = dict[str, Any]


class _Text(NamedTuple):
    """A training text, its passage, its normalized words with a space around each, the names of its document."""

    shown: Row
    passage: str
    plain: str
    documents: frozenset[str]


def browse(samples: dict[str, list[Row]], texts: pl.DataFrame) -> Row:
    """What the page's browser shows, of each model's rows on the same questions; one model is called `base`.

    `texts` has `id`, `template`, `strategy`, `text`, `source`, `title`, `document_id`, `document_text` and the span
    `start`, `end` in it. Returns `models`, the place of the `base` among them, `items` (questions, with `given`:
    answer, F1 and exact match of each model, and places of `texts`, or None where the page has room for none of
    these), the `texts` that they name, and the `passages` that those name.
    """
    asked = samples["base"][:MOST_SAMPLES]
    training = [_training_text(row) for row in texts.iter_rows(named=True)] if asked else []
    search = _Search(training, asked)
    shown, found = _Shown(training), [search.holding(row) for row in asked]
    for rank in range(TEXTS_A_SAMPLE):  # every question's best text before any one's second
        for places in found:
            shown.add(places[rank : rank + 1])
    items = []
    for place, row in enumerate(asked):
        items.append(
            {
                **{key: row[key] for key in ("question", "answers", "document", "kind")},
                "given": [
                    [rows[place]["answer"], round(rows[place]["f1"], 3), int(rows[place]["exact_match"])]
                    for rows in samples.values()
                ],
                "texts": shown.places(found[place]),
            }
        )
    return {
        "models": list(samples),
        "base": list(samples).index("base"),
        "items": items,
        "texts": shown.texts,
        "passages": list(shown.passages),
    }


class _Shown:
    """The texts and passages in the page, each once, while there is room."""

    def __init__(self, training: Sequence[_Text]) -> None:
        self.training, self.room = training, MOST_BYTES
        self.place_of: dict[int, int] = {}
        self.texts: list[Row] = []
        self.passages: dict[str, int] = {}

    def add(self, found: list[int]) -> None:
        for at in found:
            text = self.training[at]
            new = text.shown["text"] + ("" if text.passage in self.passages else text.passage)
            needed = len(new.encode("utf-8", "replace"))
            if at not in self.place_of and needed <= self.room:
                self.room -= needed
                self.place_of[at] = len(self.texts)
                passage = self.passages.setdefault(text.passage, len(self.passages))
                self.texts.append(text.shown | {"passage": passage})

    def places(self, found: list[int]) -> list[int] | None:
        """Where the texts that found room stand in the page; None where not one of several did."""
        places = [self.place_of[at] for at in found if at in self.place_of]
        return None if found and not places else places


class _Search:
    """Finds the training texts that hold an answer, by the words of all answers."""

    def __init__(self, texts: Sequence[_Text], asked: Sequence[Row]) -> None:
        self.texts = texts
        self.known = frozenset().union(*(text.documents for text in texts))
        sought = {word for row in asked for answer in _answers(row) for word in answer.split()}
        self.having: dict[str, list[int]] = {word: [] for word in sought}
        for place, text in enumerate(texts):
            for word in sought.intersection(text.plain.split()):
                self.having[word].append(place)

    def holding(self, row: Row) -> list[int]:
        """Places of the best texts for one question."""
        held: dict[int, None] = {}
        for answer in _answers(row):
            rarest = min((self.having[word] for word in answer.split()), key=len)
            named = row["document"] in self.known
            held |= dict.fromkeys(
                place
                for place in rarest
                if (not named or row["document"] in self.texts[place].documents)
                and f" {answer} " in self.texts[place].plain
            )
        words = {f" {word} " for word in normalize_answer(row["question"]).split()}

        def order(place: int) -> tuple[bool, int, int]:
            text = self.texts[place]
            return text.shown["template"] == CHUNK, -sum(word in text.plain for word in words), place

        return heapq.nsmallest(TEXTS_A_SAMPLE, list(held)[:MOST_WEIGHED], key=order)


def _answers(row: Row) -> list[str]:
    """The accepted answers, normalized; none that is made of articles and marks alone."""
    return [answer for answer in map(normalize_answer, row["answers"]) if answer]


def _training_text(row: Row) -> _Text:
    start, end = row["start"] or 0, row["end"] or 0
    names = (row["source"], row["title"], row["document_id"], Path(row["source"] or "").name)
    shown = {
        **{key: row[key] for key in ("id", "template", "strategy", "source")},
        "text": row["text"][:LONGEST_TEXT],
        "start": start,
        "end": end,
    }
    passage = (row["document_text"] or "")[start:end][:LONGEST_TEXT]
    return _Text(shown, passage, f" {normalize_answer(row['text'])} ", frozenset(name for name in names if name))
