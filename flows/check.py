"""What can be checked of a study before anything is computed."""

from pathlib import Path

import polars as pl

from active_reading.augment.decontaminate import evaluation_rows, mark_contaminated
from active_reading.augment.ingest import check_corpus
from active_reading.augment.plan import ModelIdentity, Planner
from active_reading.eval.questions import (
    Question,
    check_lengths,
    evaluation_texts,
    few_shot_examples,
    read_questions,
)
from active_reading.flows.models import ResolvedModel, resolve_model
from active_reading.flows.settings import Study
from active_reading.train.generic_text import read_background
from active_reading.train.sweep import Variant, variants

WHOLE = ("naive", "augmented")  # the data that are no templates' texts alone


def check_study(study: Study) -> None:
    """Fail now rather than after an hour: corpus, templates, questions, model, memory settings."""
    check_corpus(study.corpus)
    planner = Planner(study.generate, ModelIdentity("", ""))
    _check_data(study.train.data, planner)
    questions = read_questions(Path(study.evaluate.questions)) if study.evaluate.questions else []
    for use in study.evaluate.tasks:
        for path in use.files:
            if not path.is_file():
                raise ValueError(f"evaluate.tasks: {use.name}: {path} does not exist")
    if study.evaluate.tasks:
        from active_reading.eval.harness import check_tasks  # its import takes seconds

        check_tasks(study.evaluate.tasks)
    evaluation = evaluation_texts(study.evaluate.questions, study.evaluate.task_data)
    if study.train.background:
        check_background(study.train.background, evaluation if study.decontaminate else {})
    if study.judge.model and not study.judge.is_on:
        raise ValueError(
            f"judge.model={study.judge.model}: nothing is given to it: "
            "set judge.statements=true, judge.answers=true, or both, or leave judge.model empty"
        )
    if study.judge.model and not study.generate.endpoint:
        resolve_model(study.judge.model)
    if study.evaluate.grade:
        if not (questions or study.evaluate.make_questions):
            raise ValueError(
                f"evaluate.grade={study.evaluate.grade}: there are no gold questions whose answers it could grade: "
                "give some (evaluate.questions=FILE), or have them made (evaluate.make_questions=2)"
            )
        if not study.generate.endpoint:
            resolve_model(study.evaluate.grade)
    if study.dedupe.semantic_model:
        resolve_model(study.dedupe.semantic_model)
    model = resolve_model(study.model)
    _check_lengths(questions, model, study)
    for variant in variants(study.train):
        _check_training(variant, model)


def _check_training(variant: Variant, model: ResolvedModel) -> None:
    settings, depth, context = variant.settings, model.num_layers(), model.context_length()
    if context and settings.max_length > context:
        raise ValueError(f"train.max_length={settings.max_length} exceeds the model's context of {context} tokens")
    if variant.method != "memory":
        return
    layers = settings.memory.layers
    if layers and depth and max(layers) >= depth:
        raise ValueError(f"train.memory.layers={layers}: {model.name} has only layers 0 to {depth - 1}")
    read_background(settings.background, settings.memory.background_texts)


def _check_data(wanted: list[str], planner: Planner) -> None:
    """What is trained on is something that the study writes."""
    written = ["chunk", *(t.name for t in planner.templates.values() if t.answer != "strategies")]
    for data in wanted:
        for name in [] if data in WHOLE else data.split("+"):
            if name not in written:
                raise ValueError(
                    f"train.data={data}: the study has no template '{name}' whose texts are kept: name "
                    f"{', '.join(WHOLE)}, or one or more of {', '.join(written)}, joined by +"
                )


def check_background(path: str, evaluation: dict[str, list[str]]) -> None:
    """The user's generic text is trained on, too: it must not hold what the evaluation asks."""
    texts = read_background(path)
    numbered = pl.DataFrame({"id": range(1, len(texts) + 1), "text": texts}, {"id": pl.Int64, "text": pl.String})
    found = mark_contaminated(numbered, evaluation_rows(evaluation)).filter(pl.col("ngram").is_not_null())
    if not found.is_empty():
        first = found.row(0, named=True)
        raise ValueError(
            f"train.background={path}: {found.height} of {len(texts)} texts hold a text of the evaluation, such as "
            f"text {first['id']} ('{first['ngram']}', of {first['evaluation_set']}): remove them from the file, or "
            "set decontaminate=false"
        )


def _check_lengths(questions: list[Question], model: ResolvedModel, study: Study) -> None:
    from tokenizers import Tokenizer  # not transformers: a run with nothing to do need not wait for its import

    vocabulary = model.folder / "tokenizer.json"
    if not vocabulary.is_file():
        return  # an older format of tokenizer: the lengths are checked before the first model is evaluated
    settings = study.evaluate
    try:
        tokenizer = Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # of no type of its own
        raise ValueError(f"{vocabulary} is damaged ({error}): get the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def num_tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    room = model.context_length()
    if room is not None:
        asked = [*few_shot_examples()[: settings.few_shot], Question("", ("",))]
        shots = [f"{settings.question_format.replace('{question}', e.question)} {e.answers[0]}\n\n" for e in asked]
        room -= num_tokens("".join(shots)) + settings.max_new_tokens
    check_lengths(questions, num_tokens, settings.max_new_tokens, room)
    asked_of = [question.question for question in questions]
    behind = study.chunk.max_tokens + num_tokens("Passage: \n\n") + max(map(num_tokens, asked_of), default=0)
    if settings.ceilings and asked_of and room is not None and behind > room:
        raise ValueError(
            f"a chunk of chunk.max_tokens={study.chunk.max_tokens} does not fit before a question into the context "
            f"of {model.name}: lower it, or set evaluate.ceilings=false"
        )
