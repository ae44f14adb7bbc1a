"""Results: the finished steps of a study -> results.json and the report page."""

import json
import os
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.limits import PriceSettings
from active_reading.eval.grade import with_grades
from active_reading.eval.questions import evenly
from active_reading.flows.browser import CHUNK, browse
from active_reading.flows.learning import SHARING
from active_reading.flows.models import resolve_model
from active_reading.flows.settings import Study
from active_reading.flows.stage_files import SAMPLES, read_lines, read_table
from active_reading.flows.stages import funnel, generator_facts
from active_reading.flows.steps import Step
from active_reading.train.sweep import Variant

SCHEMA = 2  # of results.json; goes up when a key changes its meaning
NUM_EXAMPLES = 10
NUM_QUESTIONS = 12


def write_results(
    study: Study,
    steps: dict[str, Step],
    made: dict[str, tuple[str, Variant]],
    trained: dict[str, Step | None],
    scored: dict[str, Step],
    graded: Step | None = None,
) -> Path:
    """Write the report and everything beside it into the study's folder; returns the page.

    `made` says from which data and by which training each trained model comes.
    """
    from active_reading.eval.report import write_report

    results = collect_results(study, steps, made, trained, scored, graded)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=study.root) as partial:
        write_report(results, Path(partial))
        for path in Path(partial).iterdir():
            os.replace(path, study.root / path.name)
    return study.root / "index.html"


def collect_results(
    study: Study,
    steps: dict[str, Step],
    made: dict[str, tuple[str, Variant]],
    trained: dict[str, Step | None],
    scored: dict[str, Step],
    graded: Step | None = None,
) -> dict[str, Any]:
    """Everything the report shows, as JSON values."""
    model = resolve_model(study.model)
    models = [_model(name, made.get(name), trained[name], step) for name, step in scored.items()]
    if graded:
        for each in models:
            each["learning"] = with_grades(each["learning"], graded.summary["models"][each["name"]])
    stages = dict(steps)
    stages |= {f"train {name}": step for name, step in trained.items() if step}
    stages |= {f"evaluate {name}": step for name, step in scored.items()}
    stages |= {"grade": graded} if graded else {}
    return {
        "schema": SCHEMA,
        "version": version("active-reading"),
        "study": study.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "corpus": {**steps["ingest"].summary, **steps["chunk"].summary},
        "generator": generator_facts(study, model),
        "student": {"model": model.name, "revision": model.revision},
        "templates": funnel(
            steps["generate"], steps.get("judge", steps["filter"]), steps["dedupe"], steps["decontaminate"]
        ),
        "judge": steps["judge"].summary if "judge" in steps else None,
        "made_questions": steps["questions"].summary if "questions" in steps else None,
        "grading": {key: value for key, value in graded.summary.items() if key != "models"} if graded else None,
        "diversity": steps["export"].summary["diversity"],
        "coverage": steps["export"].summary["coverage"],
        "models": models,
        "comparisons": _comparisons(models, scored),
        "over_seeds": _over_seeds(models, scored),
        "ceilings": scored["base"].summary.get("ceilings", {}),
        "questions": _questions(scored),
        "samples": _browser(steps, scored),
        "examples": _examples(steps),
        "prices": study.generate.prices.model_dump(),
        "stages": [
            {"name": name, "seconds": step.seconds, "cost": stage_cost(study.generate.prices, name, step)}
            for name, step in stages.items()
        ],
    }


def stage_cost(prices: PriceSettings, name: str, step: Step) -> float | None:
    """What a stage cost, in the currency of the prices: machine time and, of `generate`, every answer's tokens.

    None where no price applies. NOT covered: the tokens of a judge.
    """
    prompt = completion = 0
    if name == "generate":
        answers = read_table(step, "generations").unique("request_id")  # chunks of one text share an answer
        prompt, completion = (int(answers[f"{kind}_tokens"].sum()) for kind in ("prompt", "completion"))
    applies = prices.machine_per_hour or (prompt + completion and any(prices.model_dump().values()))
    return prices.cost(step.seconds, prompt, completion) if applies else None


def _model(name: str, made: tuple[str, Variant] | None, trained: Step | None, scored: Step) -> dict[str, Any]:
    data, variant = made or (None, None)
    return {
        "name": name,
        "data": data,
        "method": variant.method if variant else None,
        "learning_rate": getattr(variant.settings.learning_rates, variant.method) if variant else None,
        "seed": variant.settings.seed if variant else None,
        "replay_share": variant.settings.replay_share if variant else None,
        "kl_weight": variant.settings.kl_weight if variant else None,
        "train": trained.summary if trained else None,
        "config": (trained.folder / "config.yaml").read_text(encoding="utf-8") if trained else None,
        "evaluation": scored.folder.name,
        "divergence": scored.summary.get("divergence", {}),
        "slot_sharing": json.loads((scored.folder / SHARING).read_text(encoding="utf-8")),
        "learning": scored.summary["learning"],
        "retention": scored.summary["retention"],
    }


def _comparisons(models: list[dict[str, Any]], scored: dict[str, Step]) -> list[dict[str, Any]]:
    """Pairs of models, item by item, on every set that they were asked."""
    from active_reading.eval.changes import pairs_to_compare
    from active_reading.eval.paired import compare

    items = {name: _items(step) for name, step in scored.items()}
    compared = []
    for names in [(before["name"], after["name"]) for before, after in pairs_to_compare(models)]:
        before, after = (items[name] for name in names)
        sets = {name: compare(before.get(name, []), after.get(name, []), names) for name in before | after}
        compared.append({"before": names[0], "after": names[1], "sets": sets})
    return compared


def _over_seeds(models: list[dict[str, Any]], scored: dict[str, Step]) -> list[dict[str, Any]]:
    """Trainings of several seeds against the base, and augmented data against naive, seed by seed."""
    from active_reading.eval.seeds import groups_of, over_seeds

    groups = groups_of(models)
    asked = [("base", dict.fromkeys(seeds, "base"), name, seeds) for name, seeds in groups.items()]
    for name, seeds in groups.items():
        other = name.replace("naive-", "augmented-", 1)
        if name.startswith("naive-") and groups.get(other, {}).keys() == seeds.keys():
            asked.append((name, seeds, other, groups[other]))
    used = {name for _, olds, _, news in asked for name in (*olds.values(), *news.values())}
    items = {name: _items(scored[name]) for name in used}
    compared = []
    for before, olds, after, news in asked:
        ours, theirs = ([items[names[seed]] for seed in news] for names in (olds, news))
        sets = {
            key: over_seeds([sets[key] for sets in ours], [sets[key] for sets in theirs], (before, after))
            for key in ours[0]
        }
        compared.append({"before": before, "after": after, "seeds": len(news), "sets": sets})
    return compared


def _items(step: Step) -> dict[str, list[dict[str, Any]]]:
    """One row per item of each set; `learning` are the gold questions."""
    gold = _samples(step)
    sets: dict[str, list[dict[str, Any]]] = {"learning": gold} if gold else {}
    for row in _samples(step, "retention.jsonl"):
        sets.setdefault(row["set"], []).append(row)
    return sets


def _questions(scored: dict[str, Step]) -> list[dict[str, Any]]:
    """Some gold questions, evenly spread, with every model's answer."""
    samples = {name: _samples(step) for name, step in scored.items()}
    asked = samples["base"]
    return [
        {
            **{key: asked[place][key] for key in ("question", "answers", "document")},
            "model_answers": {
                name: {"answer": rows[place]["answer"], "f1": rows[place]["f1"]} for name, rows in samples.items()
            },
        }
        for place in evenly(len(asked), NUM_QUESTIONS)
    ]


def _browser(steps: dict[str, Step], scored: dict[str, Step]) -> dict[str, Any]:
    """Every gold question with all models' answers and the training texts that hold an accepted one."""
    removed = read_table(steps["decontaminate"], "removed")
    chunks = read_table(steps["chunk"], "chunks").join(removed, left_on="chunk_id", right_on="id", how="anti")
    plain = chunks.select("chunk_id", id="chunk_id", text="text", template=pl.lit(CHUNK))
    texts = pl.concat([_distinct(steps).sort("id"), plain.sort("id")], how="diagonal_relaxed")
    return browse({name: _samples(step) for name, step in scored.items()}, _with_sources(steps, texts))


def _samples(step: Step, name: str = SAMPLES) -> list[dict[str, Any]]:
    return read_lines(step.folder / name)


def _examples(steps: dict[str, Step]) -> list[dict[str, Any]]:
    """Some generated texts, evenly spread over the templates, each with its document and span."""
    texts = _distinct(steps)
    columns = ["id", "template", "strategy", "text", "source", "title", "start", "end", "document_text"]
    return _with_sources(steps, texts[evenly(texts.height, NUM_EXAMPLES)]).select(columns).to_dicts()


def _distinct(steps: dict[str, Step]) -> pl.DataFrame:
    texts = read_table(steps["dedupe"], "distinct").sort("template", "id")
    removed = read_table(steps["decontaminate"], "removed")
    return texts.join(removed, on="id", how="anti", maintain_order="left")


def _with_sources(steps: dict[str, Step], texts: pl.DataFrame) -> pl.DataFrame:
    """The texts with the span that each was made from, and its document."""
    chunks = read_table(steps["chunk"], "chunks").select("chunk_id", "document_id", "start", "end")
    documents = read_table(steps["ingest"], "documents")
    documents = documents.select("document_id", "source", "title", pl.col("text").alias("document_text"))
    joined = texts.join(chunks, on="chunk_id", maintain_order="left")
    return joined.join(documents, on="document_id", maintain_order="left")
