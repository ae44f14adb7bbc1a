"""What reading instead of remembering would score: the base with the right passage, and with search.

A passage stands before the question, which is asked as otherwise. Search is BM25 (Robertson & Zaragoza 2009) by
the library bm25s (Lu 2024, arXiv 2407.03618), over the passages that the models study.
NOT covered: several passages at a time, search by meaning.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from active_reading.eval.questions import Question
from active_reading.eval.scores import normalize_answer

GOLD_PASSAGE, SEARCH = "base, reading the right passage", "base, with search"


class Passage(NamedTuple):
    """A passage, and its document: the names under which a question may know it, and the one to show."""

    text: str
    documents: frozenset[str]
    source: str = ""


def with_passages(questions: list[Question], passages: Sequence[Passage]) -> dict[str, list[Question]]:
    """The questions behind the passage that holds the answer, and behind the one that BM25 finds.

    Of the passages of the question's document (of all of them when it has none), the right one holds an accepted
    answer; among several, and when none does, BM25 decides.
    """
    scores = bm25_scores([question.question for question in questions], [passage.text for passage in passages])
    plain = [f" {normalize_answer(passage.text)} " for passage in passages]
    gold, found = [], []
    for question, row in zip(questions, scores, strict=True):
        best = int(row.argmax())
        wanted = [f" {normalize_answer(answer)} " for answer in question.answers]
        own = [p for p in range(len(passages)) if question.document in passages[p].documents] or range(
            len(passages)
        )
        holding = [p for p in own if any(answer in plain[p] for answer in wanted)]
        right = max(holding or own, key=lambda place: row[place])
        gold.append(replace(question, context=passages[right].text))
        found.append(replace(question, context=passages[best].text))
    return {GOLD_PASSAGE: gold, SEARCH: found}


def bm25_scores(queries: list[str], texts: list[str]) -> Iterator[np.ndarray]:
    """For each query in turn, every text's score: all of them at once would fill the memory."""
    import bm25s

    tokens: Any = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    search = bm25s.BM25()
    search.index(tokens, show_progress=False)
    known = set(search.vocab_dict)
    split = bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)
    for words in split:
        common = [word for word in words if word in known]
        yield search.get_scores(common) if common else np.zeros(len(texts))
