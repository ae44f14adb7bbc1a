"""Standard tasks by lm-evaluation-harness, as a library: its prompts, its scores, its files.

In:  a model in memory (with an adapter or without) and the tasks of the settings.
Out: per task a summary and one row per item, and the harness's own `results_*.json` and `samples_*.jsonl`.
Answers are cached as they come, by the harness, under the hash of each request: give every model its own cache.
NOT covered: chat templates, tasks that a program judges by running the model's code, groups of tasks.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from active_reading.eval.scores import mean_and_error
from active_reading.eval.settings import TaskUse

# Whole texts, in windows as long as the model's context, with the logits of every token: several windows of 8,192
# tokens side by side take 20 GB.
ROLLING = "loglikelihood_rolling"
EXTRA = "lm-evaluation-harness is not installed: pip install 'active-reading[eval]', or leave evaluate.tasks out"
Row = dict[str, Any]


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: list[TaskUse],
    name: str,
    batch_size: int,
    cache: Path | None,
    folder: Path | None,
) -> tuple[dict[str, Row], dict[str, list[Row]]]:
    """Summaries and rows per task, each by the task's name; `folder` gets the harness's own files.

    `cache` is the beginning of the name of a database of this one model's answers; None: none is kept.
    Raises ValueError for a task that does not exist or whose data is not to be had, and for one that gave no score.
    """
    harness = _import()
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    # Reading the harness's thousands of task files takes longer than a small task: only where one is wanted.
    manager = TaskManager(include_defaults=any(use.definition is None for use in tasks))
    summaries: dict[str, Row] = {}
    rows: dict[str, list[Row]] = {}
    for use in tasks:
        task, output_type = _loaded(use, manager)
        wrapped.batch_size_per_gpu = 1 if output_type == ROLLING else batch_size
        with _quiet():
            tracker = EvaluationTracker(output_path=str(folder) if folder else None)
            found = harness.simple_evaluate(
                wrapped,
                tasks=[task],
                task_manager=manager,
                use_cache=str(cache) if cache else None,
                limit=use.limit or None,
                num_fewshot=use.few_shot,
                bootstrap_iters=0,
                log_samples=True,
            )
            tracker.general_config_tracker.log_experiment_args(
                model_source="hf",
                model_args=f"pretrained={name}",
                system_instruction="",
                chat_template="",
                fewshot_as_multiturn=False,
            )
            samples = found.pop("samples")
            tracker.save_results_aggregated(found, samples)
            for task, items in samples.items():
                rows[task] = _rows(items)
                summaries[task] = _summary(task, rows[task], found["results"][task])
                tracker.save_results_samples(task, items)
    return summaries, rows


def check_tasks(tasks: list[TaskUse]) -> None:
    """Raise ValueError for a task that the harness does not know or cannot read; data is not looked at."""
    for use in tasks:
        if use.definition is not None:
            load_definition(use)
    if named := [use for use in tasks if use.definition is None]:
        _import()
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        for use in named:
            _check_known(use, manager)


def load_definition(use: TaskUse) -> dict[str, Any]:
    """The configuration of a task from its YAML file, with the file of its data filled in."""
    _import()
    from lm_eval.tasks._yaml_loader import load_yaml

    assert use.definition is not None
    if not use.definition.is_file():
        raise ValueError(f"evaluate.tasks: {use.definition} does not exist")
    try:
        config = dict(load_yaml(use.definition, resolve_func=True))
    except Exception as error:  # the functions that a definition names raise errors of many types, too
        message = " ".join(str(error).split())
        raise ValueError(
            f"evaluate.tasks: {use.definition} is no definition of a task of the harness ({message[:200]})"
        ) from error
    if use.data:
        config["metadata"] = {**(config.get("metadata") or {}), "data": use.data}
    return config


def _loaded(use: TaskUse, manager: Any) -> tuple[Any, str]:
    """What the harness takes as a task (a configuration, or a name), and what it asks of a model."""
    if use.definition is not None:
        config = load_definition(use)
        return config, str(config.get("output_type"))
    _check_known(use, manager)
    try:
        loaded = manager.load([use.name])["tasks"]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"evaluate.tasks: the data of {use.name} is not to be had ({' '.join(str(error).split())[:120]}): "
            "take one of our tasks that read a local file, or leave it out"
        ) from error
    return use.name, str(next(iter(loaded.values())).OUTPUT_TYPE)


def _check_known(use: TaskUse, manager: Any) -> None:
    if use.name not in manager.all_subtasks:
        raise ValueError(
            f"evaluate.tasks: lm-evaluation-harness has no task {use.name!r} (`lm_eval ls tasks` names them all)"
        )


def _rows(samples: list[Row]) -> list[Row]:
    """One row an item, with every score of it as a number; where filters read an answer, each has its own."""
    several = len({sample["filter"] for sample in samples}) > 1
    items: dict[int, Row] = {}
    for sample in samples:
        prompt = str(sample["arguments"][0][0])
        row = items.setdefault(
            sample["doc_id"], {"text": f"{sample['doc_id']}: {prompt[-160:] or sample['target'][:160]}"}
        )
        for metric in sample["metrics"]:
            name = f"{metric},{sample['filter']}" if several else metric
            value = sample[metric]
            if isinstance(value, (bool, int, float)):
                row[name] = float(value)
            elif metric == "bits_per_byte":  # (log-likelihood, bytes)
                row[name] = -value[0] / value[1] / math.log(2)
    return list(items.values())


def _summary(task: str, rows: list[Row], harness: Row) -> Row:
    """Means with standard errors over items; a score that is of all items together is the harness's own."""
    found: Row = {"n": len(rows)}
    for key in [key for key in (rows[0] if rows else {}) if key != "text"]:
        found[key], found[f"{key}_se"] = mean_and_error([row[key] for row in rows if key in row])
    for name, value in harness.items():
        metric, _, kept = name.partition(",")
        if kept == "none" and isinstance(value, (int, float)) and not metric.endswith("_stderr"):
            found.setdefault(metric, float(value))
    if len(found) == 1:
        raise ValueError(f"evaluate.tasks: {task} gave no score for any of {len(rows)} items: leave it out")
    return found


def _import() -> Any:
    try:
        import lm_eval
    except ImportError as error:
        raise ValueError(EXTRA) from error
    return lm_eval


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's remarks."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
