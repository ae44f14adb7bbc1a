"""What the task files in `tasks/` call: reading local data, and the scores that lm-evaluation-harness lacks.

The harness finds these functions by the names in the files, and its own command line does, too:
`lm_eval run --include_path eval/tasks --tasks nq_open_local --metadata '{"data": "nq_open_dev.jsonl"}' ...`
"""

import json
import re
from pathlib import Path
from typing import Any

from active_reading.eval.scores import exact_match, f1

ARTICLE_TITLE = re.compile(r"^ = [^=].* = $")


def read_rows(data: str, **_: Any) -> dict[str, Any]:
    """JSON lines as the split `test`. Raises ValueError, with the line, for what is not a JSON object."""
    from datasets import Dataset

    rows = []
    for number, line in enumerate(_read(data).split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{data}:{number} is not JSON ({error})") from error
            if not isinstance(row, dict) or not {"question", "answer"} <= row.keys():
                raise ValueError(f"{data}:{number}: a row needs 'question' and 'answer'")
            accepted = _accepted(row)
            if not accepted or not all(map(_is_text, [row["question"], *accepted])):
                raise ValueError(f"{data}:{number}: 'question' needs a text, and 'answer' a text or a list of them")
            rows.append({"question": row["question"], "answer": row["answer"]})
    if any(isinstance(row["answer"], list) for row in rows):  # then all are: a column has one type
        rows = [row | {"answer": _accepted(row)} for row in rows]
    return {"test": Dataset.from_list(_some(rows, data))}


def read_articles(data: str, **_: Any) -> dict[str, Any]:
    """WikiText's articles, each with its title line, as the column `page` of the split `test`."""
    from datasets import Dataset

    pages: list[list[str]] = []
    for line in _read(data).split("\n"):
        if ARTICLE_TITLE.match(line) or (line.strip() and not pages):
            pages.append([])
        if pages:
            pages[-1].append(line)
    return {"test": Dataset.from_list(_some([{"page": "\n".join(page)} for page in pages], data))}


def answer_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match and F1 by the rules of SQuAD."""
    accepted = _accepted(doc)
    return {"exact_match": exact_match(results[0], accepted), "f1": f1(results[0], accepted)}


def likelihood_results(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """Negative log-likelihood of the first accepted answer in nats per byte of UTF-8."""
    answer = _accepted(doc)[0]
    return {"nll_per_byte": -results[0][0] / len(answer.encode("utf-8"))}


def _is_text(value: Any) -> bool:
    """Whether it is words, and not half of a character anywhere."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def _accepted(doc: dict[str, Any]) -> list[str]:
    return doc["answer"] if isinstance(doc["answer"], list) else [doc["answer"]]


def _read(data: str) -> str:
    path = Path(data)
    if not path.is_file():
        raise ValueError(f"the data of a task, {data}, does not exist")
    return path.read_text(encoding="utf-8-sig")


def _some(rows: list[Any], data: str) -> list[Any]:
    if not rows:
        raise ValueError(f"the data of a task, {data}, holds no item")
    return rows
