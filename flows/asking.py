"""Stages that put questions to a model besides `generate`: gold questions made of the corpus, a judge, a grader."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from active_reading.augment.engine import Engine
from active_reading.augment.identity import content_hash, file_hash
from active_reading.augment.judge import Ask, judge_texts, make_ask
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings
from active_reading.eval.grade import GRADING, describe_grades, doubt
from active_reading.eval.made_questions import (
    READING,
    WRITING,
    WRITING_TOKENS,
    describe_questions,
    make_questions,
)
from active_reading.eval.questions import evaluation_texts, read_questions
from active_reading.flows.check import check_background
from active_reading.flows.models import ResolvedModel, resolve_model
from active_reading.flows.progress import Progress
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import (
    SAMPLES,
    make_step,
    read_lines,
    read_table,
    templates_of,
    together,
    with_titles,
    write_lines,
    write_table,
)
from active_reading.flows.steps import Step
from active_reading.prompts.render import JUDGING

logger = logging.getLogger(__name__)
JUDGEMENTS = "judgements"  # the folder of a judge's answers
MAKING = "making_questions"  # the folder of the answers that questions are made of
GRADES = "grades"  # the folder of a grader's answers


class Asked(NamedTuple):
    """A model that answers requests: how it is asked, its folder where it runs here, and its name in a ledger."""

    settings: GenerateSettings
    folder: Path
    identity: ModelIdentity


def asked_model(study: Study, name: str) -> Asked:
    """The model of this name, at the study's endpoint where it has one; the study's own where the name is empty."""
    from active_reading.augment.generate import identity as answering

    settings = study.generate
    if settings.endpoint and name:
        endpoint = settings.endpoint.model_copy(update={"model": name})
        settings, name = settings.model_copy(update={"endpoint": endpoint}), ""
    model = resolve_model(name or study.model)
    return Asked(settings, model.folder, answering(settings, model.name, model.revision))


def identity(study: Study, model: ResolvedModel) -> ModelIdentity:
    """Who answers the study's requests."""
    from active_reading.augment.generate import identity as answering

    return answering(study.generate, model.name, model.revision)


class _Asking:
    """What a stage asks with, its ledger in the study's folder of that name, and how many requests failed."""

    def __init__(
        self,
        study: Study,
        asked: Asked,
        ledger: str,
        progress: Progress,
        make_engine: Callable[[], Engine] | None = None,
    ) -> None:
        self.asked, self.folder, self.progress, self.failed = asked, study.root / ledger, progress, 0
        self.make_engine = make_engine or self._engine

    def ask(self, **how: Any) -> Ask:
        """See `judge.make_ask` for how."""
        settings, _, who = self.asked
        make, ledger = self.make_engine, Ledger(self.folder)
        return make_ask(settings, who, ledger, make, self.progress, on_failed=self._count, **how)

    def _engine(self) -> Engine:
        from active_reading.augment.generate import make_engine

        return make_engine(self.asked.settings, self.asked.folder)

    def _count(self, failed: int) -> None:
        self.failed += failed


def _asking_step(
    study: Study, name: str, config: dict[str, Any], inputs: dict[str, str], build: Callable[[Path], dict[str, Any]]
) -> Step:
    """A step that is left unfinished while requests fail; `build` returns their number as `failed`."""
    step = make_step(
        study, name, config, inputs, build, resumable=True, is_final=lambda summary: not summary["failed"]
    )
    if failed := step.summary.get("failed"):
        logger.warning("%s: %d requests failed; running again asks them again", name, failed)
    return step


def questions(study: Study, documents: Step, chunks: Step) -> Step:
    """Have the generator make gold questions: `questions.jsonl` holds the user's own and then these.

    Raises ValueError when none is kept, and when generic text of the user's own holds one.
    """
    settings, model, asked = study.evaluate, resolve_model(study.model), asked_model(study, "")
    who = asked.identity

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.train.load import load_tokenizer

        own = read_questions(Path(settings.questions)) if settings.questions else []
        tokenizer = load_tokenizer(model.folder)

        def fits(answer: str) -> bool:
            tokens = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            return len(tokens) <= settings.max_new_tokens

        with Progress("questions") as progress:
            asking = _Asking(study, asked, MAKING, progress)
            write, read = asking.ask(max_tokens=WRITING_TOKENS, cut=True), asking.ask()
            made = make_questions(with_titles(chunks, documents), settings.make_questions, write, read, fits, own)
        write_lines(folder / "dropped.jsonl", made.dropped)
        if not made.kept and asking.failed:
            raise ValueError(f"questions: {asking.failed} requests failed, and no question is left: run again")
        if not made.kept:
            raise ValueError(
                f"evaluate.make_questions={settings.make_questions}: no question that {who.name} wrote can be used "
                f"({describe_questions(made.figures)}; all in {folder / 'dropped.jsonl'}): name a larger model, or "
                "give questions of your own (evaluate.questions=FILE) and set evaluate.make_questions=0"
            )
        names = ("question", "answers", "document", "kind")
        rows = [{name: getattr(question, name) for name in names} for question in own]
        write_lines(folder / "questions.jsonl", rows + made.kept)
        return {**made.figures, "failed": asking.failed}

    inputs = {
        "documents": documents.digest,
        "chunks": chunks.digest,
        "model": model.revision,  # its tokenizer says which answers are too long
        "generator": content_hash(who.name, who.revision),
        "own questions": file_hash(Path(settings.questions)) if settings.questions else "",
        **{f"words {path.parent.name}": file_hash(path) for path in (WRITING, READING)},
    }
    config = settings.model_dump(include={"make_questions", "max_new_tokens"})
    step = _asking_step(study, "questions", config, inputs, build)
    logger.info("questions: %s", describe_questions(step.summary))
    if study.decontaminate and study.train.background:
        check_background(study.train.background, evaluation_texts(str(step.folder / "questions.jsonl")))
    return step


def with_questions(study: Study, made: Step) -> Study:
    """The study whose gold questions are those of the finished step `questions`."""
    asked = {"questions": str(made.folder / "questions.jsonl")}
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update=asked)})


def judge(study: Study, chunks: Step, filtered: Step) -> Step:
    """Have a model check what the filter kept; what fell before is passed on with what falls here."""
    settings = study.judge
    asked = asked_model(study, settings.model)

    def build(folder: Path) -> dict[str, Any]:
        answers = {name: template.answer for name, template in templates_of(study).items()}
        with Progress("judge") as progress:
            asking = _Asking(study, asked, JUDGEMENTS, progress)
            texts, passages = read_table(filtered, "kept"), read_table(chunks, "chunks")
            judged = judge_texts(texts, answers, passages, settings, asking.ask())
        kept = judged.rows.filter(pl.col("reason").is_null()).drop("reason", "detail")
        write_table(kept, folder / "kept.parquet")
        fallen = judged.rows.filter(pl.col("reason").is_not_null())
        write_table(together(read_table(filtered, "dropped"), fallen), folder / "dropped.parquet")
        return {"texts": judged.rows.height, "kept": kept.height, **judged.figures, "failed": asking.failed}

    inputs = {
        "filtered": filtered.digest,
        "judge": content_hash(asked.identity.name, asked.identity.revision),
        **{f"words {name}": file_hash(JUDGING / f"{name}.j2") for name in ("question", "statement")},
    }
    return _asking_step(study, "judge", settings.model_dump(exclude={"model"}), inputs, build)


def grade(study: Study, scored: dict[str, Step]) -> Step:
    """Have a model grade the answers of all evaluated models: `grades.jsonl`; `tried.jsonl` is on the grader."""
    asked = asked_model(study, study.evaluate.grade)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.generate import make_engine
        from active_reading.eval.grade import grade_answers
        from active_reading.train.load import free_gpu_memory

        def engine() -> Engine:
            free_gpu_memory()  # the models that were evaluated are gone, and theirs is wanted
            return make_engine(asked.settings, asked.folder, in_own_process=True)

        samples = {name: read_lines(step.folder / SAMPLES) for name, step in scored.items()}
        with Progress("grade") as progress:
            asking = _Asking(study, asked, GRADES, progress, engine)
            graded = grade_answers(samples, asking.ask())
        write_lines(folder / "grades.jsonl", graded.rows)
        write_lines(folder / "tried.jsonl", graded.tried)
        return {"grader": asked.identity.name, **graded.figures, "failed": asking.failed}

    inputs = {
        "grader": content_hash(asked.identity.name, asked.identity.revision),
        "words": file_hash(GRADING),
        **{f"answers {name}": step.digest for name, step in scored.items()},
    }
    step = _asking_step(study, "grade", {}, inputs, build)
    logger.info("grade: %s", describe_grades(step.summary))
    if why := doubt(step.summary):
        logger.warning("grade: %s", why)
    return step
