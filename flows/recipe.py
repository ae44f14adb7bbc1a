"""Recipe: what stands beside the rows of a data set, so that it can be understood, and made again elsewhere.

`README.md` (the card), `sources.parquet` (every document with its licence), `coverage.parquet` (what of the
documents no text mentions), `study.yaml` and `templates/*.j2`.
Nothing here names a folder of this machine, and nothing of the evaluation but the names of its files.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from active_reading.augment.card import RECIPE, CardFacts, list_sources, make_card
from active_reading.augment.coverage import by_document, coverage
from active_reading.augment.export import scan_text
from active_reading.augment.figures import diversity, faithfulness
from active_reading.flows.models import ResolvedModel
from active_reading.flows.settings import Study
from active_reading.prompts.render import Template

MAKING = {
    "name",
    "chunk",
    "generate",
    "filter",
    "judge",
    "dedupe",
    "decontaminate",
    "export",
}  # what decides the rows


def make_recipe(study: Study, model: ResolvedModel, templates: Mapping[str, Template]) -> str:
    """The study that makes the data set again, for a folder that has `documents/` and `templates/`."""
    values = study.model_dump(include=MAKING)
    corpus = study.corpus.model_dump() | {"path": "documents"}
    for use in values["generate"]["templates"]:
        for key in ("template", "apply"):
            if use[key]:
                use[key] = f"templates/{Path(use[key]).stem}.j2"
    values = {"name": values.pop("name"), "corpus": corpus, "model": model.name, **values}
    # Whose server wrote the texts, and where this machine keeps its own, is nobody's business.
    values["generate"]["template_folder"] = values["dedupe"]["earlier"] = ""
    if values["generate"]["endpoint"]:
        values["generate"]["endpoint"]["url"] = "http://localhost:8000/v1"
    for part, key, folder in (
        ("dedupe", "semantic_model", study.dedupe.semantic_model),
        ("judge", "model", study.judge.model),
    ):
        if Path(folder).is_dir():
            values[part][key] = Path(folder).name
    asked: dict[str, Any] = {}
    if study.evaluate.questions:
        asked["questions"] = Path(study.evaluate.questions).name
    if study.decontaminate and study.evaluate.make_questions:
        asked |= study.evaluate.model_dump(include={"make_questions", "max_new_tokens"})
    if study.decontaminate and study.evaluate.task_data:
        asked["tasks"] = [
            {"name": Path(name).name, "data": Path(path).name} for name, path in study.evaluate.task_data.items()
        ]
    if asked:
        values["evaluate"] = asked
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def write_words(
    folder: Path,
    study: Study,
    recipe: str,
    templates: Mapping[str, Template],
    *,
    generator: dict[str, Any],
    documents: pl.DataFrame,
    chunks: pl.DataFrame,
    funnel: list[dict[str, Any]],
    decontamination: dict[str, dict[str, int]] | None,
    judge: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Write everything that a data set folder holds besides its rows, which are there already.

    Returns `diversity` per template and `coverage` per document, as the card has them.
    """
    rows = scan_text(folder)
    sources = list_sources(documents, rows, study.export)
    sources.write_parquet(folder / "sources.parquet")
    present = rows.filter(template="chunk").select("chunk_id").collect()  # not what decontamination removed
    present = chunks.join(present, on="chunk_id", how="semi", maintain_order="left")
    told = coverage(present, rows.filter(pl.col("template") != "chunk"))
    told.write_parquet(folder / "coverage.parquet")
    names = documents.select("document_id", "source")
    covered = names.join(by_document(told), on="document_id", maintain_order="left").drop("document_id").to_dicts()
    different = diversity(rows, chunks)
    (folder / RECIPE).write_text(recipe, encoding="utf-8")
    (folder / "templates").mkdir(exist_ok=True)
    for name, template in templates.items():
        (folder / "templates" / f"{name}.j2").write_text(template.source, encoding="utf-8")
    by_template = rows.group_by("template", maintain_order=True).agg(
        pl.len().alias("rows"), pl.col("num_tokens").cast(pl.Int64).sum().alias("tokens")
    )
    facts = CardFacts(
        title=study.name,
        made_with=f"active-reading {version('active-reading')}",
        generator=generator,
        uses=_uses(study),
        templates={name: template.source for name, template in templates.items()},
        sources=sources,
        counts=by_template.collect().to_dicts(),
        funnel=funnel,
        faithfulness=faithfulness(funnel),
        diversity=different,
        coverage=covered,
        decontamination=decontamination,
        judge=judge,
        earlier=bool(study.dedupe.earlier),
    )
    (folder / "README.md").write_text(make_card(facts, study.export), encoding="utf-8")
    return {"diversity": different, "coverage": covered}


def _uses(study: Study) -> list[dict[str, Any]]:
    """How each template is asked: one line each, and one more for what applies its strategies."""
    lines: list[dict[str, Any]] = []
    for use in study.generate.templates:
        name, applied = Path(use.template).stem, Path(use.apply).stem if use.apply else None
        asked = {"template": name, "max_tokens": use.max_tokens, "num_items": use.num_items, "applies": None}
        often = {"replicates": use.replicates, "attempts": use.attempts}
        lines.append({**asked, **({"replicates": 1, "attempts": None} if applied else often)})
        if applied:
            line = {"template": applied, "max_tokens": use.apply_max_tokens, "num_items": None, "applies": name}
            lines.append({**line, **often})
    return lines
