"""Questions of a Hugging Face data set, fetched into a file of the cache folder."""

import os

from active_reading.augment.identity import content_hash
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
