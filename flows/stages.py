"""Stages: plain functions from a study (and finished steps) to a finished step.

Each one works without Prefect. A number in `VERSIONS` goes up when the code of a stage changes its results.
"""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from active_reading.augment.card import stated_licences
from active_reading.augment.decontaminate import TITLE, evaluation_rows, mark_contaminated
from active_reading.augment.funnel import (
    REJECTION,
    build_funnel,
    check_requests,
    describe_requests,
    rejection_counts,
    request_counts,
)
from active_reading.augment.identity import content_hash, file_hash
from active_reading.augment.ingest import read_documents
from active_reading.augment.plan import GenerateSettings, ModelIdentity
from active_reading.eval.grade import GRADING, describe_grades, doubt
from active_reading.eval.made_questions import (
    READING,
    WRITING,
    WRITING_TOKENS,
    describe_questions,
    make_questions,
)
from active_reading.eval.questions import evaluation_texts, read_questions
from active_reading.flows.check import WHOLE, check_background
from active_reading.flows.models import ResolvedModel, cache_folder, resolve_model
from active_reading.flows.progress import Progress
from active_reading.flows.recipe import make_recipe, write_words
from active_reading.flows.settings import Study
from active_reading.flows.steps import CONFIG, MANIFEST, Step, run_step
from active_reading.prompts.render import JUDGING, Template, load_template
from active_reading.train.sweep import Variant

logger = logging.getLogger(__name__)
DATASET = "dataset"  # the folder of the data set's versions
LEDGER = "ledger"  # the folder of all answers
SHARING = "slot_sharing.json"  # in the folder of an evaluation
JUDGEMENTS = "judgements"  # the folder of a judge's answers
MAKING = "making_questions"  # the folder of the answers that questions are made of
GRADES = "grades"  # the folder of a grader's answers
SAMPLES = "samples.jsonl"  # a model's answers to the gold questions
VERSIONS = {
    "ingest": 2,
    "chunk": 2,
    "questions": 1,
    "generate": 4,
    "filter": 5,
    "judge": 1,
    "dedupe": 2,
    "decontaminate": 2,
    "export": 5,
    "train": 3,
    "evaluate": 5,
    "grade": 1,
}
ANSWERS = 2  # goes up when the same model would answer otherwise: prompts, decoding, likelihoods


def ingest(study: Study) -> Step:
    """Read the corpus; the files are read at every run, so a changed one is always noticed."""
    documents, skipped = read_documents(study.corpus)
    stated_licences(documents["source"].to_list(), study.export)
    for file in skipped:
        logger.warning("skipped %s: %s", file.source, file.reason)

    def build(folder: Path) -> dict[str, Any]:
        documents.write_parquet(folder / "documents.parquet")
        listed = [dataclasses.asdict(file) for file in skipped]
        (folder / "skipped.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")
        return {
            "documents": documents.height,
            "characters": int(documents["num_chars"].sum()),
            "skipped": listed,
        }

    rows = documents.select("document_id", "source", "title").rows()
    content = content_hash([list(row) for row in rows], [[file.source, file.reason] for file in skipped])
    return _step(study, "ingest", study.corpus.model_dump(exclude={"path"}), {"files": content}, build)


def chunk(study: Study, documents: Step) -> Step:
    """Cut the documents into chunks."""
    model = resolve_model(study.model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.chunk import chunk_documents
        from active_reading.train.load import load_tokenizer

        rows = chunk_documents(_read(documents, "documents"), load_tokenizer(model.folder), study.chunk)
        rows.write_parquet(folder / "chunks.parquet")
        return {"chunks": rows.height, "tokens": int(rows["num_tokens"].sum())}

    inputs = {"documents": documents.digest, "model": model.revision}
    return _step(study, "chunk", study.chunk.model_dump(), inputs, build)


def questions(study: Study, documents: Step, chunks: Step) -> Step:
    """Have the generator make gold questions: `questions.jsonl` holds the user's own and then these.

    Raises ValueError when none is kept, and when generic text of the user's own holds one.
    """
    settings, model = study.evaluate, resolve_model(study.model)
    who = identity(study, model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.generate import make_engine
        from active_reading.augment.judge import ANSWER_TOKENS, make_ask
        from active_reading.augment.ledger import Ledger
        from active_reading.train.load import load_tokenizer

        own = read_questions(Path(settings.questions)) if settings.questions else []
        tokenizer = load_tokenizer(model.folder)

        def fits(answer: str) -> bool:
            tokens = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
            return len(tokens) <= settings.max_new_tokens

        with Progress("questions") as progress:
            write, read = (
                make_ask(
                    study.generate,
                    who,
                    Ledger(study.root / MAKING),
                    lambda: make_engine(study.generate, model.folder),
                    progress,
                    max_tokens,
                    cut,
                )
                for max_tokens, cut in ((WRITING_TOKENS, True), (ANSWER_TOKENS, False))
            )
            made = make_questions(with_titles(chunks, documents), settings.make_questions, write, read, fits, own)
        _write_lines(folder / "dropped.jsonl", made.dropped)
        if not made.kept:
            raise ValueError(
                f"evaluate.make_questions={settings.make_questions}: no question that {who.name} wrote can be used "
                f"({describe_questions(made.figures)}; all in {folder / 'dropped.jsonl'}): name a larger model, or "
                "give questions of your own (evaluate.questions=FILE) and set evaluate.make_questions=0"
            )
        names = ("question", "answers", "document", "kind")
        rows = [{name: getattr(question, name) for name in names} for question in own]
        _write_lines(folder / "questions.jsonl", rows + made.kept)
        return made.figures

    inputs = {
        "documents": documents.digest,
        "chunks": chunks.digest,
        "model": model.revision,  # its tokenizer says which answers are too long
        "generator": content_hash(who.name, who.revision),
        "own questions": file_hash(Path(settings.questions)) if settings.questions else "",
        **{f"words {path.parent.name}": file_hash(path) for path in (WRITING, READING)},
    }
    config = settings.model_dump(include={"make_questions", "max_new_tokens"})
    step = _step(study, "questions", config, inputs, build)
    logger.info("questions: %s", describe_questions(step.summary))
    if study.decontaminate and study.train.background:
        check_background(study.train.background, evaluation_texts(str(step.folder / "questions.jsonl")))
    return step


def with_questions(study: Study, made: Step) -> Study:
    """The study whose gold questions are those of the finished step `questions`."""
    asked = {"questions": str(made.folder / "questions.jsonl")}
    return study.model_copy(update={"evaluate": study.evaluate.model_copy(update=asked)})


def generate(study: Study, documents: Step, chunks: Step) -> Step:
    """Have the model study every chunk; only answers that the ledger lacks cost anything.

    While requests fail for a reason that may pass, the step stays unfinished: the run goes on without them,
    and the next one asks them again. Raises RuntimeError when a request was lost.
    """
    model = resolve_model(study.model)
    templates = _templates(study)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.generate import generate as ask
        from active_reading.augment.generate import make_engine
        from active_reading.augment.ledger import Ledger

        with Progress("generate") as progress:
            made = ask(
                with_titles(chunks, documents),
                study.generate,
                identity(study, model),
                Ledger(study.root / LEDGER),
                lambda: make_engine(study.generate, model.folder),
                progress,
            )
        counts = request_counts(made.rows, made.num_planned)
        check_requests(counts)
        # Replaced whole: another run may be reading what this one, when unfinished, makes again.
        partial = folder / "generations.partial"
        made.rows.with_columns(REJECTION.alias("rejection")).write_parquet(partial)
        os.replace(partial, folder / "generations.parquet")
        logger.info("generate: %d requests asked now", made.num_asked)
        prompt, cached = (int(made.rows[name].sum()) for name in ("prompt_tokens", "cached_tokens"))
        return {
            **counts,
            "rejections": rejection_counts(made.rows),
            "prompt_tokens": prompt,
            "cached_tokens": cached,
        }

    hashes = {f"template {name}": template.hash for name, template in templates.items()}
    inputs = {"documents": documents.digest, "chunks": chunks.digest, "model": model.revision, **hashes}
    if study.generate.endpoint:
        inputs["endpoint"] = f"{study.generate.endpoint.model} {study.generate.endpoint.revision}"
    step = _step(
        study,
        "generate",
        study.generate.how(),
        inputs,
        build,
        resumable=True,
        is_final=lambda summary: not summary["failed"],
    )
    planned, failed = step.summary["planned"], step.summary["failed"]
    logger.info("generate: %s", describe_requests(step.summary, step.summary["rejections"]))
    cached, prompt_tokens = step.summary["cached_tokens"], step.summary["prompt_tokens"]
    logger.info(
        "generate: %.0f %% of %d prompt tokens from the cache", 100 * cached / max(prompt_tokens, 1), prompt_tokens
    )
    if failed:
        logger.warning("generate: %d of %d requests failed; running again asks them again", failed, planned)
    return step


def filter_(study: Study, documents: Step, chunks: Step, generations: Step) -> Step:
    """Keep the faithful texts; the others are kept too, apart, with their reason."""

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.filter import filter_generations
        from active_reading.augment.json_answers import plain_answer

        templates = _templates(study)
        answers = {name: template.answer for name, template in templates.items()}
        in_json = pl.col("template").is_in([name for name, template in templates.items() if template.schema])
        plain = pl.when(in_json).then(pl.col("text").map_elements(plain_answer, pl.String)).otherwise("text")
        rows = filter_generations(
            _read(generations, "generations").with_columns(plain.alias("text")),
            answers,
            with_titles(chunks, documents),
            study.filter,
        )
        kept = rows.filter(pl.col("reason").is_null()).drop("reason", "detail")
        kept.write_parquet(folder / "kept.parquet")
        rows.filter(pl.col("reason").is_not_null()).write_parquet(folder / "dropped.parquet")
        return {"texts": rows.height, "kept": kept.height}

    inputs = {"documents": documents.digest, "generations": generations.digest}  # documents: for their titles
    return _step(study, "filter", study.filter.model_dump(), inputs, build)


def judge(study: Study, chunks: Step, filtered: Step) -> Step:
    """Have a model check what the filter kept; what fell before is passed on with what falls here."""
    settings = study.judge
    asked = asked_model(study, settings.model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.generate import make_engine
        from active_reading.augment.judge import judge_texts, make_ask
        from active_reading.augment.ledger import Ledger

        answers = {name: template.answer for name, template in _templates(study).items()}
        with Progress("judge") as progress:
            ask = make_ask(
                asked.settings,
                asked.identity,
                Ledger(study.root / JUDGEMENTS),
                lambda: make_engine(asked.settings, asked.folder),
                progress,
            )
            judged = judge_texts(_read(filtered, "kept"), answers, _read(chunks, "chunks"), settings, ask)
        kept = judged.rows.filter(pl.col("reason").is_null()).drop("reason", "detail")
        kept.write_parquet(folder / "kept.parquet")
        fallen = judged.rows.filter(pl.col("reason").is_not_null())
        _together(_read(filtered, "dropped"), fallen).write_parquet(folder / "dropped.parquet")
        return {"texts": judged.rows.height, "kept": kept.height, **judged.figures}

    inputs = {
        "filtered": filtered.digest,
        "judge": content_hash(asked.identity.name, asked.identity.revision),
        **{f"words {name}": file_hash(JUDGING / f"{name}.j2") for name in ("question", "statement")},
    }
    return _step(study, "judge", settings.model_dump(exclude={"model"}), inputs, build, resumable=True)


def dedupe(study: Study, chunks: Step, filtered: Step) -> Step:
    """Keep one text of each group of near-equal ones; the rows need not fit in memory."""
    settings, inputs = study.dedupe, {"chunks": chunks.digest, "kept": filtered.digest}
    if settings.semantic_model:
        model = resolve_model(settings.semantic_model)
        settings = settings.model_copy(update={"semantic_model": str(model.folder)})
        inputs["semantic model"] = model.revision

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.dedupe import cluster_table, find_duplicates

        # Columns without any value have no type of their own.
        rows = pl.scan_parquet(filtered.folder / "kept.parquet").cast({"id": pl.String, "text": pl.String})
        documents = pl.scan_parquet(chunks.folder / "chunks.parquet").select("chunk_id", "document_id")
        whence = rows.join(documents, on="chunk_id", how="left", maintain_order="left")
        repeats = find_duplicates(whence, settings)
        cluster_table(repeats).write_parquet(folder / "clusters.parquet")
        marked = rows.join(repeats.lazy(), on="id", how="left", maintain_order="left")
        distinct = marked.filter(pl.col("duplicate_of").is_null()).drop("duplicate_of", "similarity")
        distinct.sink_parquet(folder / "distinct.parquet")
        marked.filter(pl.col("duplicate_of").is_not_null()).sink_parquet(folder / "dropped.parquet")
        kept = rows.select(pl.len()).collect().item()
        return {"kept": kept, "distinct": kept - repeats.height}

    return _step(study, "dedupe", settings.model_dump(exclude={"semantic_model"}), inputs, build)


def decontaminate(study: Study, documents: Step, chunks: Step, distinct: Step) -> Step:
    """List the chunks and texts that hold what the evaluation asks: the data set is made without them.

    So do strategies, which stand in prompts of the data set, and titles, which are no rows: it hides those.
    After dedupe, so that no near copy takes the place of a text that falls.
    """
    evaluation = evaluation_texts(study.evaluate.questions, study.evaluate.task_data) if study.decontaminate else {}

    def build(folder: Path) -> dict[str, Any]:
        sources = _read(chunks, "chunks").select(id="chunk_id", text="text", template=pl.lit("chunk"))
        titles = _read(documents, "documents").select(id="document_id", text="title", template=pl.lit(TITLE))
        written = _read(distinct, "distinct").select("id", "text", "template", "strategy").cast(pl.String)
        strategies = written.filter(pl.col("strategy").is_not_null()).with_columns(text="strategy")
        asked, mostly = evaluation_rows(evaluation), evaluation_rows(evaluation, whole={"gold"})
        marked = [
            mark_contaminated(sources, mostly),
            mark_contaminated(titles, mostly),
            mark_contaminated(pl.concat([written, strategies]), asked),
        ]
        fallen, hidden, removed = (rows.filter(pl.col("ngram").is_not_null()) for rows in marked)
        removed = removed.unique("id", keep="first", maintain_order=True)
        if 0 < fallen.height == sources.height:
            raise ValueError(
                "every chunk of the documents holds a text of the evaluation, and none is left to learn: "
                "remove the questions from the documents, or set decontaminate=false"
            )
        if fallen.height:
            logger.warning(
                "decontaminate: %d of %d chunks hold a text of the evaluation and are left out (%s)",
                fallen.height,
                sources.height,
                folder / "removed.parquet",
            )
        columns = ["id", "template", "evaluation_set", "evaluation_text", "ngram"]
        pl.concat([fallen, hidden, removed], how="diagonal").select(columns).write_parquet(
            folder / "removed.parquet"
        )
        return {
            name: {
                "texts": len(texts),
                "removed": removed.filter(evaluation_set=name).height,
                "removed_chunks": fallen.filter(evaluation_set=name).height,
                "hidden_titles": hidden.filter(evaluation_set=name).height,
            }
            for name, texts in evaluation.items()
        }

    inputs = {
        "documents": documents.digest,
        "chunks": chunks.digest,
        "distinct": distinct.digest,
        "evaluation": content_hash(evaluation),
    }
    return _step(study, "decontaminate", {"decontaminate": study.decontaminate}, inputs, build)


def export(
    study: Study,
    documents: Step,
    chunks: Step,
    generations: Step,
    filtered: Step,
    distinct: Step,
    decontaminated: Step,
) -> Step:
    """Write the data set and its card."""
    model, templates = resolve_model(study.model), _templates(study)
    recipe = make_recipe(study, model, templates)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.export import count_rows, make_rows, write_dataset
        from active_reading.train.load import load_tokenizer

        tokenizer = load_tokenizer(model.folder)
        answers = {name: template.answer for name, template in templates.items()}
        batches = make_rows(
            with_titles(chunks, documents),
            pl.scan_parquet(distinct.folder / "distinct.parquet"),
            _read(decontaminated, "removed"),
            answers,
            tokenizer,
        )
        write_dataset(batches, study.export.instruction, tokenizer, folder)
        figures = write_words(
            folder,
            study,
            recipe,
            templates,
            generator=generator_facts(study, model),
            documents=_read(documents, "documents"),
            chunks=_read(chunks, "chunks"),
            funnel=funnel(generations, filtered, distinct, decontaminated),
            decontamination=decontaminated.summary if study.decontaminate else None,
            judge={name: filtered.summary[name] for name in ("statements", "answers") if name in filtered.summary},
        )
        content = {path.name: _data_hash(path) for path in (folder / "data").iterdir()}
        num_rows, tokens = count_rows(folder)
        return {"rows": num_rows, "tokens": tokens, "content": content, **figures}

    steps = (documents, chunks, generations, filtered, distinct, decontaminated)
    inputs = {step.folder.name: step.digest for step in steps} | {"recipe": content_hash(recipe)}
    return _step(study, "export", study.export.model_dump(), inputs, build)


def publish(study: Study, dataset: Step) -> Path:
    """Make the data set the next version of the study's, unless the newest one has the same rows."""
    from active_reading.augment import versions

    model = resolve_model(study.model)
    paths = (path for path in dataset.folder.rglob("*") if path.is_file())
    files = sorted(path.relative_to(dataset.folder).as_posix() for path in paths)
    facts = {
        "study": study.name,
        "made_with": f"active-reading {version('active-reading')}",
        "generator": dataclasses.asdict(identity(study, model)),
        "views": {"instruction": study.export.instruction},
    }
    made = [name for name in files if name not in (MANIFEST, CONFIG)]
    return versions.publish(study.root / DATASET, dataset.folder, made, facts).folder


def train(study: Study, dataset: Step, data: str, variant: Variant) -> Step:
    """Train the study's model with one method and setting on one of `train.data`.

    Raises ValueError when no text of the wanted templates is left.
    """
    model = resolve_model(study.model)
    part = {"naive": "chunks"}.get(data, "text")
    rows = pl.scan_parquet(dataset.folder / "data" / part / "*.parquet").select("text", "chunk_id", "template")
    content = dataset.summary["content"][part]
    if data not in WHOLE:
        rows = rows.filter(pl.col("template").is_in(data.split("+")))
        content = content_hash(rows.select("text").collect()["text"].to_list())
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
    # The rows alone: what the card says (of the evaluation, too) makes no other model.
    inputs = {"dataset": content, "model": model.revision}
    if chosen.background:
        inputs["background"] = file_hash(Path(chosen.background))
    return _step(study, "train", settings, inputs, build, label=f"train-{name}", resumable=True)


def evaluate(study: Study, chunks: Step, documents: Step, trained: Step | None, name: str = "base") -> Step:
    """Score a trained model, or the untouched one; what it has answered before is not asked again."""
    model = resolve_model(study.model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.eval.evaluate import evaluate_model

        answers = (study.root if trained else cache_folder()) / "answers"
        with Progress(f"evaluate {name}") as progress:
            scores = evaluate_model(
                trained.folder if trained else model.folder,
                model.folder,
                study.evaluate,
                progress,
                _passages(chunks, documents),
                answers / f"{content_hash('answers', ANSWERS, model.revision, trained and trained.digest)}.jsonl",
                folder / "lm_eval",
            )
        for rows, file_name in (("answers", SAMPLES), ("kept", "retention.jsonl")):
            _write_lines(folder / file_name, scores.pop(rows))
        (folder / SHARING).write_text(json.dumps(scores.pop("slot_sharing")), encoding="utf-8")
        (folder / "results.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
        return scores

    questions = study.evaluate.questions
    inputs = {"model": model.revision, "trained": trained.digest if trained else "base", "chunks": chunks.digest}
    if questions:
        if not Path(questions).is_file():
            raise ValueError(f"evaluate.questions={questions}: no such file")
        inputs["questions"] = file_hash(Path(questions))
    for use in study.evaluate.tasks:
        inputs |= {f"task {use.name} {path.suffix}": file_hash(path) for path in use.files}
    settings = study.evaluate.model_dump(exclude={"questions", "make_questions", "batch_size", "tasks", "grade"})
    settings["tasks"] = [use.model_dump(exclude={"data"}) for use in study.evaluate.tasks]
    return _step(study, "evaluate", settings, inputs, build, label=f"evaluate-{name}")


def grade(study: Study, scored: dict[str, Step]) -> Step:
    """Have a model grade the answers of all evaluated models: `grades.jsonl`; `tried.jsonl` is on the grader."""
    asked = asked_model(study, study.evaluate.grade)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.engine import Engine
        from active_reading.augment.generate import make_engine
        from active_reading.augment.judge import make_ask
        from active_reading.augment.ledger import Ledger
        from active_reading.eval.grade import grade_answers
        from active_reading.train.load import free_gpu_memory

        def engine() -> Engine:
            free_gpu_memory()  # the models that were evaluated are gone, and theirs is wanted
            return make_engine(asked.settings, asked.folder, in_own_process=True)

        samples = {name: read_lines(step.folder / SAMPLES) for name, step in scored.items()}
        with Progress("grade") as progress:
            ask = make_ask(asked.settings, asked.identity, Ledger(study.root / GRADES), engine, progress)
            graded = grade_answers(samples, ask)
        _write_lines(folder / "grades.jsonl", graded.rows)
        _write_lines(folder / "tried.jsonl", graded.tried)
        return {"grader": asked.identity.name, **graded.figures}

    inputs = {
        "grader": content_hash(asked.identity.name, asked.identity.revision),
        "words": file_hash(GRADING),
        **{f"answers {name}": step.digest for name, step in scored.items()},
    }
    step = _step(study, "grade", {}, inputs, build)
    logger.info("grade: %s", describe_grades(step.summary))
    if why := doubt(step.summary):
        logger.warning("grade: %s", why)
    return step


def _passages(chunks: Step, documents: Step) -> list[Any]:
    """The chunks, each with the names that a question may give its document."""
    from active_reading.eval.ceilings import Passage

    rows = with_titles(chunks, documents).select("text", "document_id", "title", "source").rows()
    return [
        Passage(text, frozenset(name for name in (*names, source, Path(source).name) if name), source)
        for text, *names, source in rows
    ]


def generator_facts(study: Study, model: ResolvedModel) -> dict[str, Any]:
    """Which model wrote the texts, and how they were drawn."""
    sampling = study.generate.model_dump(include={"engine", "temperature", "top_p", "seed"})
    who = identity(study, model)
    # The echo says so in its engine's name.
    return {"model": who.name, "revision": model.revision if who.revision == "echo" else who.revision, **sampling}


def identity(study: Study, model: ResolvedModel) -> ModelIdentity:
    """Who answers the study's requests."""
    from active_reading.augment.generate import identity as answering

    return answering(study.generate, model.name, model.revision)


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


def funnel(generations: Step, filtered: Step, distinct: Step, decontaminated: Step) -> list[dict[str, Any]]:
    """Counts and drop reasons per template, from the files of the four steps."""
    texts = _together(_read(filtered, "kept"), _read(filtered, "dropped"))
    marked = _together(_read(distinct, "distinct"), _read(distinct, "dropped"))
    removed = _read(decontaminated, "removed").join(marked, on="id", how="semi")  # chunks are no texts of ours
    return build_funnel(_read(generations, "generations"), texts, marked, removed)


def _templates(study: Study) -> dict[str, Template]:
    names: Iterable[str | None] = (n for use in study.generate.templates for n in (use.template, use.apply))
    loaded = [load_template(name, study.generate.template_folder) for name in names if name]
    return {template.name: template for template in loaded}


def _read(step: Step, name: str) -> pl.DataFrame:
    return pl.read_parquet(step.folder / f"{name}.parquet")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a step's JSON lines."""
    # Not splitlines: a model may write line ends of Unicode, which JSON keeps as they are.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _data_hash(folder: Path) -> str:
    return content_hash([file_hash(path) for path in sorted(folder.iterdir())])


def with_titles(chunks: Step, documents: Step) -> pl.DataFrame:
    titles = _read(documents, "documents").select("document_id", "title", "source")
    return _read(chunks, "chunks").join(titles, on="document_id", how="left", maintain_order="left")


def _together(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([first, second], how="diagonal")


def _step(
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
