"""What can be checked of a study before anything is computed."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

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
from active_reading.eval.settings import EvaluateSettings
from active_reading.flows.models import ResolvedModel, resolve_model
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import read_table
from active_reading.flows.steps import Step
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
    if num_tokens := _counter(model):
        room = _room(model, study.evaluate, num_tokens)
        check_lengths(questions, num_tokens, study.evaluate.max_new_tokens, room)
    needed: dict[str | None, int] = {}  # generic texts of each file
    for variant in variants(study.train):
        _check_training(variant, model)
        if variant.method == "memory":
            file, number = variant.settings.background, variant.settings.memory.background_texts
            needed[file] = max(needed.get(file, 0), number)
    for background, number in needed.items():
        read_background(background, number)


def check_passages(study: Study, chunks: Step) -> None:
    """Raises ValueError where a chunk does not fit before a question, as the evaluation's ceilings put it."""
    settings, model = study.evaluate, resolve_model(study.model)
    num_tokens = _counter(model)
    if not (settings.questions and settings.ceilings and num_tokens):
        return
    questions = read_questions(Path(settings.questions))
    room = _room(model, settings, num_tokens)
    longest = int(cast(int, read_table(chunks, "chunks")["num_tokens"].max()))
    asked = max((num_tokens(question.question) for question in questions), default=0)
    if room is not None and longest + asked + num_tokens("Passage: \n\n") > room:
        raise ValueError(
            f"a chunk of {longest} tokens does not fit before a question into the context of {model.name}: lower "
            f"chunk.max_tokens={study.chunk.max_tokens}, or set evaluate.ceilings=false"
        )


def _check_training(variant: Variant, model: ResolvedModel) -> None:
    settings, depth, context = variant.settings, model.num_layers(), model.context_length()
    if context and settings.max_length > context:
        raise ValueError(f"train.max_length={settings.max_length} exceeds the model's context of {context} tokens")
    layers = settings.memory.layers
    if variant.method == "memory" and layers and depth and max(layers) >= depth:
        raise ValueError(f"train.memory.layers={layers}: {model.name} has only layers 0 to {depth - 1}")


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


def _counter(model: ResolvedModel) -> Callable[[str], int] | None:
    """Counts a text's tokens; None for an older format of tokenizer, which is slow to open."""
    from tokenizers import Tokenizer  # not transformers: a run with nothing to do need not wait for its import

    vocabulary = model.folder / "tokenizer.json"
    if not vocabulary.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(vocabulary))
    except Exception as error:  # of no type of its own
        raise ValueError(f"{vocabulary} is damaged ({error}): get the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _room(model: ResolvedModel, settings: EvaluateSettings, num_tokens: Callable[[str], int]) -> int | None:
    """Tokens of the model's context beside worked examples and answer; None where it does not say."""
    context = model.context_length()
    if context is None:
        return None
    asked = [*few_shot_examples()[: settings.few_shot], Question("", ("",))]
    shots = [f"{settings.question_format.replace('{question}', e.question)} {e.answers[0]}\n\n" for e in asked]
    return context - num_tokens("".join(shots)) - settings.max_new_tokens
