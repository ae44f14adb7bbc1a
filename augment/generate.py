"""Generate: chunks x templates -> the ledger, asking the engine only for what the ledger lacks.

A request is addressed by what determines its answer: chunk text, template source, strategy, model and
revision, sampling, replicate (`keys.py`). Work to do = plan anti-join ledger; this one join is the resume after a
crash, the incremental run over a grown corpus, and the reuse of answers when other settings change. Both are
tables: a prompt is rendered when its turn comes.
Strategy templates run in two stages without a barrier: as soon as the strategies of a chunk arrive, the requests
that apply them go ahead of all others, while the engine still has the chunk in its prefix cache. For that cache,
too, requests go chunk by chunk, and the few-shot turns of a template come first in its prompts.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from active_reading.augment.endpoint import EndpointEngine
from active_reading.augment.engine import Completion, EchoEngine, Engine, VllmEngine
from active_reading.augment.keys import KeySet
from active_reading.augment.ledger import SCHEMA, Ledger
from active_reading.augment.limits import LimitReached, Limits
from active_reading.augment.parallel import ParallelEngine
from active_reading.augment.plan import ModelIdentity, Plan, Planner, Request, Work
from active_reading.augment.settings import GenerateSettings
from active_reading.prompts.render import VARIABLES

Progress = Callable[[int, int, str, str], None]  # done, of how many, of what, and a note
MAX_ATTEMPTS = 3  # at one request in one run


class Generated(NamedTuple):
    """What became of a plan."""

    rows: pl.DataFrame  # the ledger's rows for the whole plan, in plan order
    num_planned: int  # requests, as planned; as many as rows, unless the engine lost one
    num_asked: int  # requests that went to the engine now, each counted once


def generate(
    chunks: pl.DataFrame,
    settings: GenerateSettings,
    model: ModelIdentity,
    ledger: Ledger,
    make_engine: Callable[[], Engine],
    progress: Progress,
    variables: frozenset[str] = VARIABLES,
) -> Generated:
    """Answer every planned request that the ledger lacks, or that failed when it was asked before.

    `chunks` has `chunk_id` and the `variables` that the templates use. The engine starts only when needed.
    Raises OSError when the ledger cannot be written, and whatever the engine raises; answers that came
    before are kept. Raises LimitReached when a budget is spent before the plan is done, or nearly all attempts
    fail.
    """
    plan = Plan(Planner(settings, model, variables), chunks)
    work = plan.missing(ledger)
    table, num_planned, num_asked = work.table, work.num_planned, 0
    if work.missing.height:
        engine = make_engine()
        limits, kept = Limits(settings.budget, settings.prices), Accepted()
        failed: list[int] = []  # asked now, and not again in this run
        try:
            with ledger.writer() as writer:
                while work.missing.height:
                    queue = _Queue(plan, work)
                    for answers in _answer(engine, queue, settings.max_in_flight, limits):
                        for request, completion in answers:
                            writer.append(_row(request, completion, model))
                            num_planned += queue.follow(request, completion)
                            num_asked += 1
                            failed += [request.key] if completion.error else []
                            kept.count(request.template.name, completion)
                            total = num_asked + len(queue) + engine.num_running
                            progress(num_asked, total, "answers", f"{limits.describe()}; {kept.describe()}")
                        writer.flush_if_due()
                    if queue or not plan.grows:
                        break
                    writer.flush()  # another run may have written, too: what its answers ask for is asked here
                    work = plan.missing(ledger, failed)
                    num_planned = work.num_planned  # with what the ledger answered before
        finally:
            engine.close()
        if queue:
            raise LimitReached(
                f"generate: stopped at {limits.spent(0)}: {len(queue)} requests remain, and what was answered is "
                "kept; run again to spend as much once more, or raise the budget"
            )
        table = plan.complete(ledger)  # answers came in any order; the result has the order of the plan
    return Generated(_rows_in_order(plan, table, ledger), num_planned, num_asked)


class _Queue:
    """What is still to be asked: what follows from answers first, then the plan, then what failed before."""

    def __init__(self, plan: Plan, work: Work) -> None:
        self._plan = plan
        self._requests = plan.requests(work.missing)
        self._num_requests = work.missing.height
        self._ahead: deque[Request] = deque()
        self._again: deque[Request] = deque()
        self._planned, self._answered = KeySet(work.table["key"]), KeySet(work.answered)
        self._followed: set[int] = set()
        # The same text in two chunks shares one proposal, and each chunk has its own follow-ups.
        proposing = [place for place, recipe in enumerate(plan.planner.recipes) if recipe.proposes]
        proposals = work.table.filter(pl.col("recipe").is_in(proposing)).join(work.missing, on="key", how="semi")
        asking = proposals.group_by("key").agg("chunk", "recipe")
        self._asking = {key: list(zip(*places, strict=True)) for key, *places in asking.iter_rows()}

    def __len__(self) -> int:
        return len(self._ahead) + self._num_requests + len(self._again)

    def pop(self) -> Request:
        if self._ahead:
            return self._ahead.popleft()
        if self._num_requests:
            self._num_requests -= 1
            return next(self._requests)
        return self._again.popleft()

    def ask_again(self, request: Request) -> None:
        self._again.append(request)

    def follow(self, request: Request, completion: Completion) -> int:
        """Put what follows from an answer ahead of all others; returns how many requests this adds to the plan."""
        if completion.error:
            return 0
        before = len(self._followed)
        for chunk, recipe in self._asking.get(request.key, ()):
            for row in self._plan.follow_ups(chunk, recipe, completion.text, completion.finish_reason):
                key = row[0]
                if key in self._followed or key in self._planned:
                    continue
                self._followed.add(key)
                if key not in self._answered:
                    self._ahead.append(self._plan.request(*row))
        return len(self._followed) - before


def _answer(
    engine: Engine, queue: _Queue, max_in_flight: int, limits: Limits
) -> Iterator[list[tuple[Request, Completion]]]:
    """What the engine finishes, poll by poll: also when that is nothing, so that the caller gets its turn.

    The caller may add to the queue. A request that failed goes to its end again, up to `MAX_ATTEMPTS` attempts in
    all. Ends before the queue when a budget is spent.
    """
    running: dict[str, Request] = {}
    failures: Counter[str] = Counter()
    while (queue and not limits.spent(0)) or engine.num_running:
        while queue and engine.num_running < max_in_flight and not limits.spent(engine.num_running):
            request = queue.pop()
            running[request.request_id] = request
            engine.submit(request.request_id, request.template.messages(**request.values), request.sampling)
        finished = []
        for completion in engine.poll():
            request = running.pop(completion.request_id)
            limits.record(completion)
            if completion.failed:
                failures[request.request_id] += 1
            if completion.failed and not completion.is_final and failures[request.request_id] < MAX_ATTEMPTS:
                queue.ask_again(request)
            else:
                finished.append((request, completion))
        yield finished


class Accepted:
    """Answers that ended well, of all, per template: what the progress line tells."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def count(self, template: str, completion: Completion) -> None:
        counts = self._counts.setdefault(template, [0, 0])
        counts[0] += completion.finish_reason == "stop" and completion.error is None and bool(completion.text)
        counts[1] += 1

    def describe(self) -> str:
        return "accepted " + ", ".join(f"{name} {good}/{all_}" for name, (good, all_) in self._counts.items())


def _rows_in_order(plan: Plan, table: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    """The ledger's rows of a plan, each under the chunk and the template that the plan asks it for."""
    names = [recipe.template.name for recipe in plan.planner.recipes]
    asked = table.unique("key", keep="first", maintain_order=True).select(
        "key",
        "chunk",
        "recipe",
    )
    ids = plan.chunks.select("chunk_id").with_row_index("chunk")
    templates = pl.DataFrame({"template": names}, schema={"template": pl.String}).with_row_index("recipe")
    asked = asked.join(ids, on="chunk", maintain_order="left").join(
        templates.cast({"recipe": pl.UInt16}), on="recipe", maintain_order="left"
    )
    rows = ledger.rows_of(asked).drop("chunk_id", "template")
    return asked.join(rows, on="key", maintain_order="left").select(SCHEMA.keys())


def _row(request: Request, completion: Completion, model: ModelIdentity) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "chunk_id": request.chunk_id,
        "template": request.template.name,
        "template_hash": request.template.hash,
        "strategy": request.strategy,
        "replicate": request.replicate,
        "model": model.name,
        "model_revision": model.revision,
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_tokens,
        "seed": request.sampling.seed,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "cached_tokens": completion.cached_tokens,
        "finish_reason": completion.finish_reason,
        "text": completion.text,
        "error": completion.error,
    }


def make_engine(settings: GenerateSettings, model_folder: Path | str, in_own_process: bool = False) -> Engine:
    """The engine that the settings name, on the model in `model_folder` (or a Hugging Face id).

    `in_own_process`: vLLM starts away from this process. It looks through all imported modules, and stumbles over
    one of those that evaluation needs (llvmlite, vLLM 0.32).
    """
    if settings.engine == "echo":
        return EchoEngine()
    if settings.endpoint is not None:
        return EndpointEngine(settings.endpoint, settings.max_num_seqs)
    arguments = str(model_folder), settings.max_model_len, settings.max_num_seqs, settings.seed
    if settings.data_parallel == 1 and not in_own_process:
        return VllmEngine(*arguments, settings.tensor_parallel)
    return ParallelEngine(VllmEngine, (*arguments, settings.tensor_parallel), device_groups(settings))


def device_groups(settings: GenerateSettings) -> list[str]:
    """The GPUs of each engine, as CUDA_VISIBLE_DEVICES; raises ValueError where there are too few.

    A single engine may do without any.
    """
    import torch

    wanted = settings.data_parallel * settings.tensor_parallel
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if not names and wanted == 1:
        return [""]
    if len(names) < wanted:
        raise ValueError(
            f"generate.data_parallel={settings.data_parallel} times tensor_parallel={settings.tensor_parallel} "
            f"needs {wanted} GPUs, and there are {len(names)}"
        )
    each = settings.tensor_parallel
    return [",".join(names[start : start + each]) for start in range(0, wanted, each)]


def identity(settings: GenerateSettings, name: str, revision: str) -> ModelIdentity:
    """Which model answers: what the study names, or what the endpoint serves; the echo's answers are no model's."""
    if settings.endpoint is not None:
        return ModelIdentity(settings.endpoint.model, f"endpoint {settings.endpoint.revision}".strip())
    return ModelIdentity(name, "echo" if settings.engine == "echo" else revision)
