"""Stages: plain functions from a study (and finished steps) to a finished step, from documents to a data set.

Each one works without Prefect.
"""

import dataclasses
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
from active_reading.augment.identity import content_hash
from active_reading.augment.ingest import read_documents
from active_reading.eval.questions import evaluation_texts
from active_reading.flows.asking import identity
from active_reading.flows.models import ResolvedModel, resolve_model
from active_reading.flows.progress import Progress
from active_reading.flows.recipe import make_recipe, write_words
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import (
    make_step,
    read_table,
    templates_of,
    together,
    with_titles,
    write_table,
)
from active_reading.flows.steps import CONFIG, MANIFEST, Step

logger = logging.getLogger(__name__)
DATASET = "dataset"  # the folder of the data set's versions
LEDGER = "ledger"  # the folder of all answers


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
    return make_step(study, "ingest", study.corpus.model_dump(exclude={"path"}), {"files": content}, build)


def chunk(study: Study, documents: Step) -> Step:
    """Cut the documents into chunks."""
    model = resolve_model(study.model)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.chunk import chunk_documents
        from active_reading.train.load import load_tokenizer

        rows = chunk_documents(read_table(documents, "documents"), load_tokenizer(model.folder), study.chunk)
        rows.write_parquet(folder / "chunks.parquet")
        return {"chunks": rows.height, "tokens": int(rows["num_tokens"].sum())}

    inputs = {"documents": documents.digest, "model": model.revision}
    return make_step(study, "chunk", study.chunk.model_dump(), inputs, build)


def generate(study: Study, documents: Step, chunks: Step) -> Step:
    """Have the model study every chunk; only answers that the ledger lacks cost anything.

    While requests fail for a reason that may pass, the step stays unfinished: the run goes on without them,
    and the next one asks them again. Raises RuntimeError when a request was lost.
    """
    model = resolve_model(study.model)
    templates = templates_of(study)

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
        write_table(made.rows.with_columns(REJECTION.alias("rejection")), folder / "generations.parquet")
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
    step = make_step(
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

        templates = templates_of(study)
        answers = {name: template.answer for name, template in templates.items()}
        in_json = pl.col("template").is_in([name for name, template in templates.items() if template.schema])
        plain = pl.when(in_json).then(pl.col("text").map_elements(plain_answer, pl.String)).otherwise("text")
        rows = filter_generations(
            read_table(generations, "generations").with_columns(plain.alias("text")),
            answers,
            with_titles(chunks, documents),
            study.filter,
        )
        kept = rows.filter(pl.col("reason").is_null()).drop("reason", "detail")
        kept.write_parquet(folder / "kept.parquet")
        rows.filter(pl.col("reason").is_not_null()).write_parquet(folder / "dropped.parquet")
        return {"texts": rows.height, "kept": kept.height}

    inputs = {"documents": documents.digest, "generations": generations.digest}  # documents: for their titles
    return make_step(study, "filter", study.filter.model_dump(), inputs, build)


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

    return make_step(study, "dedupe", settings.model_dump(exclude={"semantic_model"}), inputs, build)


def decontaminate(study: Study, documents: Step, chunks: Step, distinct: Step) -> Step:
    """List the chunks and texts that hold what the evaluation asks: the data set is made without them.

    So do strategies, which stand in prompts of the data set, and titles, which are no rows: it hides those.
    After dedupe, so that no near copy takes the place of a text that falls.
    """
    evaluation = evaluation_texts(study.evaluate.questions, study.evaluate.task_data) if study.decontaminate else {}

    def build(folder: Path) -> dict[str, Any]:
        sources = read_table(chunks, "chunks").select(id="chunk_id", text="text", template=pl.lit("chunk"))
        titles = read_table(documents, "documents").select(id="document_id", text="title", template=pl.lit(TITLE))
        written = read_table(distinct, "distinct").select("id", "text", "template", "strategy").cast(pl.String)
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
    return make_step(study, "decontaminate", {"decontaminate": study.decontaminate}, inputs, build)


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
    model, templates = resolve_model(study.model), templates_of(study)
    recipe = make_recipe(study, model, templates)

    def build(folder: Path) -> dict[str, Any]:
        from active_reading.augment.export import count_rows, make_rows, write_dataset
        from active_reading.train.load import load_tokenizer

        tokenizer = load_tokenizer(model.folder)
        answers = {name: template.answer for name, template in templates.items()}
        batches = make_rows(
            with_titles(chunks, documents),
            pl.scan_parquet(distinct.folder / "distinct.parquet"),
            read_table(decontaminated, "removed"),
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
            documents=read_table(documents, "documents"),
            chunks=read_table(chunks, "chunks"),
            funnel=funnel(generations, filtered, distinct, decontaminated),
            decontamination=decontaminated.summary if study.decontaminate else None,
            judge={name: filtered.summary[name] for name in ("statements", "answers") if name in filtered.summary},
        )
        num_rows, tokens = count_rows(folder)
        return {"rows": num_rows, "tokens": tokens, **figures}

    steps = (documents, chunks, generations, filtered, distinct, decontaminated)
    inputs = {step.folder.name: step.digest for step in steps} | {"recipe": content_hash(recipe)}
    return make_step(study, "export", study.export.model_dump(), inputs, build)


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


def generator_facts(study: Study, model: ResolvedModel) -> dict[str, Any]:
    """Which model wrote the texts, and how they were drawn."""
    sampling = study.generate.model_dump(include={"engine", "temperature", "top_p", "seed"})
    who = identity(study, model)
    # The echo says so in its engine's name.
    return {"model": who.name, "revision": model.revision if who.revision == "echo" else who.revision, **sampling}


def funnel(generations: Step, filtered: Step, distinct: Step, decontaminated: Step) -> list[dict[str, Any]]:
    """Counts and drop reasons per template, from the files of the four steps."""
    texts = together(read_table(filtered, "kept"), read_table(filtered, "dropped"))
    marked = together(read_table(distinct, "distinct"), read_table(distinct, "dropped"))
    removed = read_table(decontaminated, "removed").join(marked, on="id", how="semi")  # chunks are no texts of ours
    return build_funnel(read_table(generations, "generations"), texts, marked, removed)
