"""What the evaluation asks, as files that stay as they are: fetched from a data set, or copied."""

import os
import shutil
from pathlib import Path

from active_reading.augment.identity import content_hash, file_hash
from active_reading.augment.ingest import DATASET, open_dataset
from active_reading.eval.dataset_questions import question_lines
from active_reading.flows.models import cache_folder
from active_reading.flows.settings import Study


def fetch_questions(study: Study) -> None:
    """Put a file in the place of `evaluate.questions=hf:NAME`; its name tells the data set and its content.

    Raises ValueError when the data set cannot be opened, or holds no question.
    """
    path = study.evaluate.questions or ""
    if not path.startswith(DATASET):
        return
    name, rows = open_dataset(path, study.evaluate.questions_split)
    text = "".join(f"{line}\n" for line in question_lines(rows, name))
    if not text:
        raise ValueError(
            f"data set '{name}' (split {study.evaluate.questions_split}) has no question with an answer"
        )
    folder = cache_folder() / "questions"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name.replace('/', '--')}-{study.evaluate.questions_split}-{content_hash(text)}.jsonl"
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
    study.evaluate.questions = str(file)


def keep_asked(study: Study) -> Study:
    """The study with its questions and its tasks' data copied into the output folder, as they are now.

    A file that changes while models are trained would be asked of some of them alone, and was not kept out of the
    data set.
    """
    settings = study.evaluate
    questions = settings.questions and _copy(settings.questions, study.root)
    tasks = [use.model_copy(update={"data": use.data and _copy(use.data, study.root)}) for use in settings.tasks]
    evaluate = settings.model_copy(update={"questions": questions, "tasks": tasks})
    return study.model_copy(update={"evaluate": evaluate})


def _copy(path: str, root: Path) -> str:
    name, folder = Path(path).name, root / "asked"
    folder.mkdir(exist_ok=True)
    part = folder / f"{name}.{os.getpid()}"
    shutil.copyfile(path, part)
    content = file_hash(part)
    target = folder / content[:12] / name
    if target.is_file() and file_hash(target) == content:
        part.unlink()
    else:
        target.parent.mkdir(exist_ok=True)
        part.replace(target)
    return str(target)
