"""Everything a model ever answered, one JSON line an item, written as it comes.

A killed evaluation goes on with the next item, and a changed score reads what is stored: the model is not asked
again. A file belongs to one model; what an item was asked is in its key. A line that a kill cut short is skipped.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from active_reading.eval.questions import Question

Stored = dict[str, Any]


class AnswerStore:
    """The answers of one model; without a path, kept for this run only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[str, Stored] = {}
        if path and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    row = json.loads(line)
                    self.rows[row.pop("key")] = row
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue  # empty, or cut

    def get(self, key: str) -> Stored | None:
        """What was stored under the key."""
        return self.rows.get(key)

    def add(self, rows: Sequence[tuple[str, Stored]]) -> None:
        """Remember the rows, and write those whose numbers are finite: a broken model's are asked again."""
        self.rows |= dict(rows)
        whole = [row for row in rows if all(math.isfinite(v) for v in row[1].values() if isinstance(v, float))]
        if self.path and whole:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # A cut line before ours is ended, so that only itself is lost.
                lines = [json.dumps({"key": key, **row}, ensure_ascii=True) for key, row in whole]
                start = "\n" if file.tell() and not _ends_with_newline(self.path) else ""
                file.write((start + "\n".join(lines) + "\n").encode())


def question_key(question: Question, examples: Sequence[Question], max_new_tokens: int, form: str) -> str:
    """What decides an answer and the likelihood of the gold one; other accepted answers do not."""
    shown = [[example.question, example.answers[0]] for example in examples]
    asked = [question.context, question.question, question.answers[0]]
    return _key("question", *asked, shown, max_new_tokens, form)


def text_key(kind: str, text: str) -> str:
    """What decides a number of a text; `kind` says which number."""
    return _key(kind, text)


def _key(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
