"""The Prefect flow itself: importing this module imports Prefect."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, task
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
    return run_stages(Study.model_validate(yaml.safe_load(study)), "report", _as_task)
