"""Stages that make models and measure them: train and evaluate."""

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.identity import content_hash, file_hash, texts_hash
from active_reading.flows.check import WHOLE
from active_reading.flows.models import cache_folder, resolve_model
from active_reading.flows.progress import Progress
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import SAMPLES, make_step, with_titles, write_lines
from active_reading.flows.steps import Step
from active_reading.train.sweep import Variant

logger = logging.getLogger(__name__)
SHARING = "slot_sharing.json"  # in the folder of an evaluation
ANSWERS = 3  # goes up when the same model would answer otherwise: prompts, decoding, likelihoods


def train(study: Study, dataset: Step, data: str, variant: Variant) -> Step:
    """Train the study's model with one method and setting on one of `train.data`.

    Raises ValueError when no text of the wanted templates is left.
    """
    model = resolve_model(study.model)
    part = {"naive": "chunks"}.get(data, "text")
    rows = pl.scan_parquet(dataset.folder / "data" / part / "*.parquet").select("text", "chunk_id", "template")
    if data not in WHOLE:
        rows = rows.filter(pl.col("template").is_in(data.split("+")))
    name = f"{data}-{variant.method}{variant.label}"

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.train.trainer import train_model

        chosen_rows = rows.collect()
        texts, chunks = chosen_rows["text"].to_list(), chosen_rows["chunk_id"].to_list()
        if not texts:
            raise ValueError(f"train.data={data}: the data set has no text of it")
        with Progress(f"train {name}") as progress:
            return train_model(
                texts,
                str(model.folder),
                method,
                chosen,
                folder,
                progress,
                groups=chunks,
                memories=study.root / "memories",
            )

    chosen, method = variant.settings, variant.method
    settings = chosen.decisive(method) | {"data": data}
    # What is trained on alone: a document's new name, or what the card says, makes no other model.
    read = ("text", "chunk_id") if chosen.group_by == "chunk" else ("text",)
    inputs = {"model": model.revision} | {name: texts_hash(rows.select(name).collect()[name]) for name in read}
    if chosen.background:
        inputs["background"] = file_hash(Path(chosen.background))
    return make_step(study, "train", settings, inputs, build, label=f"train-{name}", resumable=True)


def evaluate(study: Study, chunks: Step, documents: Step, trained: Step | None, name: str = "base") -> Step:
    """Score a trained model, or the untouched one; what it has answered before is not asked again."""
    model = resolve_model(study.model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.eval.evaluate import evaluate_model
        from active_reading.train.precision import compute_dtype

        answers = (study.root if trained else cache_folder()) / "answers"
        who = model.revision, trained and trained.digest, str(compute_dtype())
        passages = _passages(chunks, documents)
        if questions and not trained:
            _tell_of_other_documents(Path(questions), passages)
        with Progress(f"evaluate {name}") as progress:
            scores = evaluate_model(
                trained.folder if trained else model.folder,
                model.folder,
                study.evaluate,
                progress,
                passages,
                answers / f"{content_hash('answers', ANSWERS, *who)}.jsonl",
                folder / "lm_eval",
            )
        for rows, file_name in (("answers", SAMPLES), ("kept", "retention.jsonl")):
            write_lines(folder / file_name, scores.pop(rows))
        (folder / SHARING).write_text(json.dumps(scores.pop("slot_sharing")), encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
        return scores

    questions = study.evaluate.questions
    inputs = {"model": model.revision, "trained": trained.digest if trained else "base", "chunks": chunks.digest}
    inputs["documents"] = documents.digest  # titles and sources, by which questions name their document
    if questions:
        if not Path(questions).is_file():
            raise ValueError(f"evaluate.questions={questions}: no such file")
        inputs["questions"] = file_hash(Path(questions))
    for use in study.evaluate.tasks:
        inputs[f"task {use.name}"] = content_hash([file_hash(path) for path in use.files])
    settings = study.evaluate.model_dump(exclude={"questions", "make_questions", "batch_size", "tasks", "grade"})
    settings["tasks"] = [use.model_dump(exclude={"data"}) for use in study.evaluate.tasks]
    return make_step(study, "evaluate", settings, inputs, build, label=f"evaluate-{name}")


def _tell_of_other_documents(questions: Path, passages: list[Any]) -> None:
    """Questions about what the corpus lacks may be meant (a control, an earlier corpus), or a slip of the pen."""
    from active_reading.eval.questions import read_questions

    known = frozenset().union(*(passage.documents for passage in passages))
    about = [question.document for question in read_questions(questions) if question.document]
    if other := [document for document in about if document not in known]:
        logger.warning(
            "%s: %d of %d questions are about documents that the corpus does not have (the first: %r)",
            questions.name,  # of a copy
            len(other),
            len(about),
            other[0],
        )


def _passages(chunks: Step, documents: Step) -> list[Any]:
    """The chunks, each with the names that a question may give its document."""
    from active_reading.eval.ceilings import Passage

    rows = with_titles(chunks, documents).select("text", "document_id", "title", "source").rows()
    return [
        Passage(text, frozenset(name for name in (*names, source, Path(source).name) if name), source)
        for text, *names, source in rows
    ]
