"""What stages share: the version of each, and the files of finished steps.

A number in `VERSIONS` goes up when the code of a stage changes its results.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.flows.settings import Study
from active_reading.flows.steps import Step, run_step
from active_reading.prompts.render import Template, load_template

SAMPLES = "samples.jsonl"  # a model's answers to the gold questions
VERSIONS = {
    "ingest": 4,
    "chunk": 3,
    "questions": 1,
    "generate": 4,
    "filter": 7,
    "judge": 1,
    "dedupe": 2,
    "decontaminate": 2,
    "export": 5,
    "train": 13,
    "evaluate": 7,
    "grade": 1,
}


def make_step(
    study: Study,
    name: str,
    config: dict[str, Any],
    inputs: dict[str, str],
    build: Any,
    label: str = "",
    resumable: bool = False,
    is_final: Callable[[dict[str, Any]], bool] = lambda summary: True,
) -> Step:
    return run_step(study.root, label or name, VERSIONS[name], config, inputs, build, resumable, is_final)


def read_table(step: Step, name: str) -> pl.DataFrame:
    return pl.read_parquet(step.folder / f"{name}.parquet")


# Files are replaced whole: another run may be reading what this one, when a step was left unfinished, makes again.
def write_table(table: pl.DataFrame, path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    table.write_parquet(partial)
    os.replace(partial, path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(partial, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a step's JSON lines."""
    # Not splitlines: a model may write line ends of Unicode, which JSON keeps as they are.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def with_titles(chunks: Step, documents: Step) -> pl.DataFrame:
    titles = read_table(documents, "documents").select("document_id", "title", "source")
    return read_table(chunks, "chunks").join(titles, on="document_id", how="left", maintain_order="left")


def together(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([first, second], how="diagonal")


def templates_of(study: Study) -> dict[str, Template]:
    """The study's templates by name."""
    names: Iterable[str | None] = (n for use in study.generate.templates for n in (use.template, use.apply))
    loaded = [load_template(name, study.generate.template_folder) for name in names if name]
    return {template.name: template for template in loaded}
