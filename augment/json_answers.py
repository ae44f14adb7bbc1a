"""Answers in JSON (templates with a `schema`) -> the plain forms that the parsers of answers read.

The ledger keeps the JSON as the model wrote it.
"""

import json
from typing import Any

from active_reading.prompts.characters import writable


def plain_answer(text: str) -> str:
    """Question-answer pairs as `Q:` and `A:` lines, lists of strings as `## ` lines, any other text as it is.

    What is no JSON (cut short, mostly) stays as it is: whoever parses it says what is wrong.
    """
    try:
        lines = _lines(json.loads(text))
    except (ValueError, RecursionError):  # brackets within brackets without end, too
        return text
    return writable("\n".join(lines)) if lines else text


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = {str(key).lower(): part for key, part in value.items()}
        if "question" in found and "answer" in found:
            return [f"Q: {_one_line(found['question'])}", f"A: {_one_line(found['answer'])}"]
        if len(found) == 1 and isinstance(only := next(iter(found.values())), str):
            return [only.strip()]
        return [line for part in value.values() for line in _lines(part)]
    if isinstance(value, list):
        return [
            line
            for part in value
            for line in ([f"## {_one_line(part)}"] if isinstance(part, str) else _lines(part))
        ]
    return []


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
