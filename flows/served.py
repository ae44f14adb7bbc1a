"""The Prefect flow itself: importing this module imports Prefect."""

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from active_reading.flows.pipeline import run_stages
from active_reading.flows.settings import Study


def _as_task(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    # Our steps are the cache, and arguments are passed on unread: they hold paths, not data.
    return task(name=name, persist_result=False, cache_policy=NO_CACHE)(function)


@flow(name="active-reading", validate_parameters=False, persist_result=False)
def study_flow(study: str) -> Path:
    """Run a study, given as YAML text; returns the report page."""
    logger = logging.getLogger("active_reading")
    logger.setLevel(logging.INFO)
    if any(type(handler) is logging.StreamHandler for handler in logger.handlers):
        return _run(study)  # from the command line, which speaks for itself
    logger.addHandler(logging.StreamHandler(sys.stdout))
    try:
        page = _run(study)
    except Exception as error:
        logger.error("run failed: %s", " ".join(str(error).split()))
        raise
    logger.info("run completed: %s", page)
    return page


def _run(study: str) -> Path:
    asked = Study.model_validate(yaml.safe_load(study))
    page = run_stages(asked, "report", _as_task)
    _publish_artifacts(page, asked.name)
    return page


def _publish_artifacts(page: Path, name: str) -> None:
    """Show the run's summary and what became of its requests in Prefect's pages; each run is a version of them."""
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    create_markdown_artifact(
        page.with_name("summary.md").read_text(encoding="utf-8"),
        f"{key}-summary",
        f"What the models learned: {page}",
    )
    funnel = json.loads(page.with_name("results.json").read_text(encoding="utf-8"))["templates"]
    rows = [{**row, "dropped": ", ".join(f"{why} {n}" for why, n in row["dropped"].items())} for row in funnel]
    create_table_artifact(rows, f"{key}-generation", "Requests and texts of each template")
