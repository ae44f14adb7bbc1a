"""What a study will ask and cost, before it is run."""

from pathlib import Path

import polars as pl

from active_reading.eval.grade import MOST_TRIED
from active_reading.eval.made_questions import MOST_OF_A_CHUNK, WRITING_TOKENS
from active_reading.eval.questions import read_questions
from active_reading.flows import stages
from active_reading.flows.asking import identity
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import prepare
from active_reading.flows.progress import Progress
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import with_titles
from active_reading.train.sweep import variants


def estimate(study: Study, num_sampled: int) -> str:
    """Ask a sample of the chunks, whose answers are kept, and say what remains; see `augment.estimate`.

    Raises ValueError for a mistake in the study.
    """
    from active_reading.augment import estimate as sampling
    from active_reading.augment.generate import make_engine
    from active_reading.augment.ledger import Ledger

    prepare(study)
    model = resolve_model(study.model)
    documents = stages.ingest(study)
    chunks = with_titles(stages.chunk(study, documents), documents)
    with Progress("estimate") as progress:
        found = sampling.estimate(
            chunks,
            study.generate,
            identity(study, model),
            Ledger(study.root / stages.LEDGER),
            lambda: make_engine(study.generate, model.folder),
            progress,
            num_sampled,
        )
    told = f"{documents.summary['documents']} documents, {chunks.height} chunks\n{sampling.describe(found)}"
    if study.evaluate.make_questions:
        writing, reading, tokens = most_made(study, chunks)
        told += (
            f"\nand requests for the made questions: at most {writing:,} to write and {reading:,} to check them, "
            f"{tokens:,} answer tokens in all"
        )
    if study.judge.is_on:
        most = most_judged(study, chunks.height)
        told += f"\nand of the judge at most {most:,} short requests, one for each text kept"
    if study.evaluate.grade:
        told += f"\nand of the grader at most {most_graded(study, documents.summary['documents']):,} short requests"
    return told


def most_made(study: Study, chunks: pl.DataFrame) -> tuple[int, int, int]:
    """Requests that write questions, those that check them, and tokens of all answers.

    The most by the template's schema, which an endpoint may not keep to.
    """
    from active_reading.augment.judge import ANSWER_TOKENS

    of_document = chunks.group_by("document_id").len()["len"]
    writing = int(of_document.clip(upper_bound=study.evaluate.make_questions).sum())
    reading = writing * MOST_OF_A_CHUNK
    return writing, reading, writing * WRITING_TOKENS + reading * ANSWER_TOKENS


def most_graded(study: Study, num_documents: int) -> int:
    """How much the grader is asked if no two models agree on any answer, with those that it is tried on."""
    own = len(read_questions(Path(study.evaluate.questions))) if study.evaluate.questions else 0
    questions = own + study.evaluate.make_questions * num_documents
    models = 1 + len(study.train.data) * len(list(variants(study.train)))
    return questions * models + 2 * min(questions, MOST_TRIED)


def most_judged(study: Study, num_chunks: int) -> int:
    """How much the judge is asked if the filter drops nothing: every text, and some with planted facts."""
    from active_reading.augment.judge import MOST_PLANTED
    from active_reading.prompts.render import load_template

    texts = {True: 0, False: 0}  # of a chunk: question-answer pairs, and the others
    for use in study.generate.templates:
        answer = load_template(use.template, study.generate.template_folder).answer
        texts[answer == "questions"] += use.replicates * (1 if answer == "text" else use.num_items)
    statements = num_chunks * texts[False] + MOST_PLANTED if study.judge.statements else 0
    return statements + (num_chunks * texts[True] if study.judge.answers else 0)
