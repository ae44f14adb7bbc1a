"""Generic text: background for a memory's keys and counts, and what replay repeats. No torch here."""

import json
from pathlib import Path

SHIPPED = Path(__file__).parent / "data" / "background_text.jsonl"


def read_background(path: str | None = None, limit: int = 0) -> list[str]:
    """Generic texts of a JSONL file (`text` in each line), or those that ship; all of them when `limit` is 0.

    Raises ValueError for a file that is missing or malformed, and when it has fewer than `limit` texts.
    """
    file = Path(path) if path else SHIPPED
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # JSON lines end nowhere else
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise TypeError("a text that is none, or no line")
        "".join(texts).encode()  # half a surrogate pair is no character
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"train.background={path}: {error!r}; needs JSON lines with a 'text' each") from None
    if limit > len(texts):
        raise ValueError(f"train.memory.background_texts={limit}, and {file.name} has {len(texts)}")
    return texts[: limit or None]
