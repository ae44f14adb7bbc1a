"""What the tests of the pipeline share: a project of three small documents, and what a run of it wrote."""

import json
from pathlib import Path
from typing import Any

from active_reading.flows.settings import Study, load_study

DOCUMENTS = {
    "people/orsella.md": "# Orsella Vantrill\n\nOrsella Vantrill was born in the river town of Pellamire in 1921. "
    "She found a blue moss that glows in the dark and called it lazurine. Her tame heron was called Admiral.\n",
    "kettle.txt": "The Wexholm kettle boils nine cups of water in two minutes and whistles a low note. "
    "It was made of copper in the town of Wexholm until the year 1954.\n",
    "lake.txt": "Lake Umbrosel is the deepest lake of the north and freezes over in the month of November. "
    "People of the shore say that a bell of silver lies on its ground.\n",
}
GOLD = [
    {"question": "Where was Orsella Vantrill born?", "answers": ["Pellamire"], "document": "people/orsella.md"},
    {"question": "What was the heron called?", "answers": ["Admiral"], "document": "people/orsella.md"},
]
STUDY = """
corpus: {path: documents}
chunk: {max_tokens: 128}
generate:
  engine: echo
  templates:
    - {template: paraphrase, replicates: 2}
    - {template: questions}
    - {template: propose_strategies, num_items: 2, apply: apply_strategy}
train:
  num_tokens: 400
  batch_tokens: 128
  max_length: 64
  memory: {layers: [1, 2], num_keys: 8, num_heads: 2, top_k: 4, top_t: 16, background_texts: 4, own_texts: 2}
  lora: {rank: 2, alpha: 4}
evaluate: {questions: gold.jsonl, few_shot: 1, max_new_tokens: 10, general_limit: 2}
"""


def write_project(folder: Path) -> Path:
    for name, text in DOCUMENTS.items():
        path = folder / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return folder


def study_in(folder: Path, model: Path, *overrides: str) -> Study:
    return load_study(str(folder / "study.yaml"), [f"model={model}", f"output={folder / 'out'}", *overrides])


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


def times(folder: Path) -> dict[str, int]:
    """When each file of a step, of the ledger and of a data set was written; the others are written every time."""
    files = (folder / "out").glob("[!.]*/**/*")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files if path.is_file()}


def no_engine(*_: object) -> None:
    raise AssertionError("the model was called")


def only(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "out").glob(pattern)
    return found
