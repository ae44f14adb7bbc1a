"""The pipeline: every stage in order, as plain calls or as one Prefect flow with a task per stage."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from active_reading.flows import asking, learning, stages
from active_reading.flows.check import check_passages, check_study
from active_reading.flows.fetch import fetch_questions, keep_asked
from active_reading.flows.output import open_output
from active_reading.flows.results import write_results
from active_reading.flows.settings import Study
from active_reading.flows.steps import Step
from active_reading.train.sweep import Variant, variants

STAGES = (
    "ingest",
    "chunk",
    "questions",
    "generate",
    "filter",
    "judge",
    "dedupe",
    "decontaminate",
    "export",
    "train",
    "evaluate",
    "grade",
    "report",
)
Call = Callable[..., Any]


def run_stages(study: Study, until: str, task: Callable[[Call, str], Call]) -> Path:
    """Run the stages up to and including `until`; finished steps are reused.

    `task` wraps each stage's function under a name (for Prefect, or not at all). Returns the folder of
    the last step, or the report page.
    """
    if until == "grade" and not study.evaluate.grade:
        raise ValueError("no answers are graded: set evaluate.grade to the model that grades them")
    if until == "judge" and not study.judge.is_on:
        raise ValueError("no texts are judged: set judge.statements=true, judge.answers=true, or both")
    if until == "questions" and not study.evaluate.make_questions:
        raise ValueError("no questions are made: set evaluate.make_questions to how many a document at most")
    prepare(study)
    asked = keep_asked(study)
    documents = task(stages.ingest, "ingest")(study)
    if until == "ingest":
        return documents.folder
    chunks = task(stages.chunk, "chunk")(study, documents)
    if until == "chunk":
        return chunks.folder
    made_questions = None
    if study.evaluate.make_questions:
        made_questions = task(asking.questions, "questions")(asked, documents, chunks)
        asked = keep_asked(asking.with_questions(asked, made_questions))
        if until == "questions":
            return made_questions.folder
    check_passages(asked, chunks)
    generations = task(stages.generate, "generate")(study, documents, chunks)
    if until == "generate":
        return generations.folder
    filtered = task(stages.filter_, "filter")(study, documents, chunks, generations)
    if until == "filter":
        return filtered.folder
    judged = task(asking.judge, "judge")(study, chunks, filtered) if study.judge.is_on else filtered
    if until == "judge":
        return judged.folder
    distinct = task(stages.dedupe, "dedupe")(study, chunks, judged)
    if until == "dedupe":
        return distinct.folder
    removed = task(stages.decontaminate, "decontaminate")(asked, documents, chunks, distinct)
    if until == "decontaminate":
        return removed.folder
    dataset = task(stages.export, "export")(study, documents, chunks, generations, judged, distinct, removed)
    published: Path = task(stages.publish, "publish")(study, dataset)
    if until == "export":
        return published
    trained: dict[str, Step | None] = {"base": None}
    made: dict[str, tuple[str, Variant]] = {}
    for data in study.train.data:
        for variant in variants(study.train):
            name = f"{data}-{variant.method}{variant.label}"
            trained[name] = task(learning.train, f"train {name}")(study, dataset, data, variant)
            made[name] = data, variant
    if until == "train":
        return study.root
    scored = {
        name: task(learning.evaluate, f"evaluate {name}")(asked, chunks, documents, step, name)
        for name, step in trained.items()
    }
    if until == "evaluate":
        return study.root
    graded = task(asking.grade, "grade")(study, scored) if study.evaluate.grade else None
    if until == "grade" and graded:
        return graded.folder
    steps = {
        "ingest": documents,
        "chunk": chunks,
        **({"questions": made_questions} if made_questions else {}),
        "generate": generations,
        "filter": filtered,
        **({"judge": judged} if study.judge.is_on else {}),
        "dedupe": distinct,
        "decontaminate": removed,
        "export": dataset,
    }
    return task(write_results, "report")(study, steps, made, trained, scored, graded)


def prepare(study: Study) -> None:
    """Check all that can be checked before anything is computed, and claim the output folder.

    Questions of a data set are fetched first, into a file that takes its place in the study.
    """
    fetch_questions(study)
    check_study(study)
    open_output(study)


def run_plain(study: Study, until: str) -> Path:
    """Run without Prefect."""
    return run_stages(study, until, lambda function, _: function)


def set_prefect_defaults(study: Study) -> None:
    """Settings that Prefect reads when it is imported; the user's own always win."""
    # A server started here keeps its database with the study: two studies never wait for one lock.
    database = f"sqlite+aiosqlite:///{study.root / '.prefect.db'}"
    os.environ.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The terminal shows our own lines; Prefect's logs, tracebacks too, go to its server.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "active_reading")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def make_flow() -> Any:
    """The Prefect flow `active-reading`; its one parameter is the study's text in YAML."""
    from active_reading.flows.served import study_flow

    return study_flow


def run_flow(study: Study) -> Path:
    """Run as a Prefect flow: on the server that PREFECT_API_URL names, else on a temporary one."""
    prepare(study)  # a mistake is told before Prefect starts
    set_prefect_defaults(study)
    from active_reading.flows.server import running_server

    with running_server():
        page: Path = make_flow()(study.to_yaml())
    return page


def schedule(study: Study, cron: str) -> None:
    """Serve the flow on a cron schedule until interrupted. Raises ValueError for a bad cron line."""
    set_prefect_defaults(study)
    from active_reading.flows.server import check_cron, serve

    check_cron(cron)
    prepare(study)
    serve(make_flow(), study, cron)
