"""Gold questions of a Hugging Face data set -> JSON lines, as every other file of questions.

A row has `question` and, as `answers` or `answer`, a text, a list of texts, SQuAD's `{"text": [...]}` or TriviaQA's
`{"value": ..., "aliases": [...]}`; optionally `document`, `document_id` or `title`, and `kind`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

WHENCE = ("document", "document_id", "title")


def question_lines(rows: Iterable[dict[str, Any]], name: str) -> Iterator[str]:
    """JSON lines of a data set's rows; rows without any answer, which SQuAD 2 has, are left out.

    Raises ValueError, with the row, when it has no question or no answers that can be read.
    """
    for number, row in enumerate(rows, start=1):
        place = f"data set '{name}', row {number}"
        if not isinstance(row.get("question"), str):
            raise ValueError(
                f"{place}: needs the columns 'question' and 'answers', and has {', '.join(sorted(row))}"
            )
        answers = _texts(row.get("answers", row.get("answer")), place)
        if not answers:
            continue
        line = {"question": row["question"], "answers": list(dict.fromkeys(answers))}
        document = next((row[column] for column in WHENCE if isinstance(row.get(column), str)), None)
        line |= {"document": document} if document else {}
        if not isinstance(kind := row.get("kind") or "", str):
            raise ValueError(f"{place}: 'kind' is {kind!r}: give a text, or leave the column out")
        yield json.dumps(line | ({"kind": kind} if kind else {}), ensure_ascii=False)


def _texts(answers: Any, place: str) -> list[str]:
    if isinstance(answers, dict):
        value = answers.get("text", answers.get("value"))
        answers = [*(value if isinstance(value, list) else [value]), *(answers.get("aliases") or [])]
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{place}: 'answers' is {answers!r}: give a text or a list of texts")
    return answers
