"""Generate: chunks x templates -> the ledger, asking the engine only for what the ledger lacks.

A request is addressed by what determines its answer: chunk text, template source, strategy, model and
revision, sampling, replicate. Work to do = plan anti-join ledger; this one join is the resume after a
crash, the incremental run over a grown corpus, and the reuse of answers when other settings change.
Strategy templates run in two stages without a barrier: as soon as the strategies of a chunk arrive,
the requests that apply them go ahead of all others, while the engine still has the chunk in its prefix
cache. For that cache, too, requests go chunk by chunk, and the few-shot turns of a template come
first in its prompts.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.engine import Completion, Engine, Sampling
from active_reading.augment.identity import content_hash
from active_reading.augment.ledger import SCHEMA, Ledger
from active_reading.prompts.render import Template, load_template

Progress = Callable[[int, int, str], None]
MAX_ATTEMPTS = 3  # at one request in one run


class TemplateUse(BaseModel):
    """How often one template is asked, and how."""

    model_config = ConfigDict(extra="forbid")

    template: str = Field(description="name of a shipped template, or a path to a .j2 file")
    replicates: int = Field(1, ge=1, description="answers per chunk (and strategy)")
    max_tokens: int = Field(
        256, ge=8, description="longer answers are cut: their whole questions or strategies are used"
    )
    num_items: int = Field(4, ge=1, description="questions or strategies to ask for")
    apply: str | None = Field(None, description="for strategies: the template that applies each of them")
    apply_max_tokens: int = Field(256, ge=8, description="for strategies: max_tokens of the applications")


class GenerateSettings(BaseModel):
    """What the generator is asked."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["vllm", "echo"] = "vllm"
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(
        1.0, gt=0, le=1, description="below 1 the vocabulary is sorted at every token: slow on a CPU"
    )
    seed: int = 0
    max_model_len: int = Field(2048, ge=128, description="context of the engine, prompt and answer, in tokens")
    template_folder: str = Field("", description="a folder of .j2 files, which go before the shipped ones")
    max_num_seqs: int = Field(96, ge=1, description="sequences that the engine runs side by side")
    templates: list[TemplateUse] = [
        TemplateUse(template="paraphrase", replicates=2),
        TemplateUse(template="questions", replicates=2),
        TemplateUse(template="propose_strategies", num_items=3, max_tokens=128, apply="apply_strategy"),
    ]


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights answer: a name for people and a hash of their content."""

    name: str
    revision: str


@dataclass(frozen=True)
class Request:
    """One planned question to the engine."""

    request_id: str
    chunk_id: str
    template: Template
    use: TemplateUse
    values: dict[str, Any]
    strategy: str | None
    replicate: int
    sampling: Sampling


class Planner:
    """Knows every request of a study; see `initial` and `follow_ups`."""

    def __init__(self, settings: GenerateSettings, model: ModelIdentity) -> None:
        self.settings = settings
        self.model = model
        self.templates: dict[str, Template] = {}
        for use in settings.templates:
            for name in (use.template, use.apply):
                if name is not None:
                    self.templates[name] = load_template(name, settings.template_folder)
            self._check(use)
        self._check_names()

    def initial(self, chunks: Iterable[dict[str, Any]]) -> Iterator[Request]:
        """Requests that depend on nothing but the chunk, chunk by chunk."""
        for chunk in chunks:
            for use in self.settings.templates:
                yield from self._requests(use, self.templates[use.template], chunk, strategy=None)

    def follow_ups(
        self, request: Request, answer: str, finish_reason: str | None, chunk: dict[str, Any]
    ) -> Iterator[Request]:
        """Requests that apply the strategies in `answer`; none for other templates."""
        if request.use.apply is None or request.strategy is not None:
            return
        if finish_reason != "stop":  # the cut went through the last line
            answer = answer.rpartition("\n")[0]
        for strategy in parse_strategies(answer)[: request.use.num_items]:
            yield from self._requests(request.use, self.templates[request.use.apply], chunk, strategy)

    def _requests(
        self, use: TemplateUse, template: Template, chunk: dict[str, Any], strategy: str | None
    ) -> Iterator[Request]:
        values = {
            "text": chunk["text"],
            "title": chunk["title"],
            "heading": chunk.get("heading") or "",
            "num_items": use.num_items,
        }
        if strategy is not None:
            values["strategy"] = strategy
        # Only what the template uses decides the id: a renamed file keeps its answers.
        used = {name: values[name] for name in sorted(template.variables)}
        drawn = self.settings
        max_tokens = use.max_tokens if strategy is None else use.apply_max_tokens
        for replicate in range(use.replicates if use.apply is None or strategy is not None else 1):
            request_id = content_hash(
                template.hash,
                used,
                [self.model.name, self.model.revision],
                [drawn.temperature, drawn.top_p, max_tokens, drawn.seed],
                replicate,
                size=16,
            )
            sampling = Sampling(drawn.temperature, drawn.top_p, max_tokens, int(request_id[:7], 16))
            yield Request(request_id, chunk["chunk_id"], template, use, values, strategy, replicate, sampling)

    def _check(self, use: TemplateUse) -> None:
        template = self.templates[use.template]
        if template.needs_strategy:
            raise ValueError(f"template '{use.template}' needs a strategy: name it in 'apply' of another one")
        if template.answer == "strategies" and use.apply is None:
            raise ValueError(f"template '{use.template}' proposes strategies: name in 'apply' what applies them")
        if template.answer != "strategies" and use.apply is not None:
            raise ValueError(
                f"generate.templates: 'apply' goes with a template whose answer is strategies, "
                f"and '{use.template}' answers {template.answer}"
            )
        if use.apply is not None and not self.templates[use.apply].needs_strategy:
            raise ValueError(f"template '{use.apply}' does not use 'strategy' and cannot apply one")

    def _check_names(self) -> None:
        """Rows, counts and the card tell templates apart by name alone."""
        hashes: dict[str, str] = {}
        for template in self.templates.values():
            if template.name == "chunk":
                raise ValueError(
                    "a template cannot be named 'chunk', which marks the documents' own text: rename it"
                )
            if hashes.setdefault(template.name, template.hash) != template.hash:
                raise ValueError(f"two different templates are named '{template.name}': rename one of the files")


def parse_strategies(text: str) -> list[str]:
    """Strategies in a model's answer: headings or list items, in order, without repeats."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:#+|[-*]|\d+[.)])\s*(.+)", line)
        strategy = match.group(1).replace("**", "").strip(" *#:") if match else ""
        if len(strategy.split()) >= 3:
            found.setdefault(strategy.casefold(), strategy)
    return list(found.values())


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
) -> Generated:
    """Answer every planned request that the ledger lacks, or that failed when it was asked before.

    `chunks` has the columns of `chunk_documents` and `title`. The engine starts only when needed.
    Raises OSError when the ledger cannot be written, and whatever the engine raises; answers that came
    before are kept.
    """
    planner = Planner(settings, model)
    by_id = {chunk["chunk_id"]: chunk for chunk in chunks.iter_rows(named=True)}
    answered = ledger.read().filter(pl.col("error").is_null())
    known = {row["request_id"]: row for row in answered.iter_rows(named=True)}
    # Requests that share one answer (the same text in two chunks): the first stands for them in the plan,
    # and each has its own follow-ups.
    plan: dict[str, list[Request]] = {}

    def enter(requests: Iterable[Request]) -> list[Request]:
        """Put requests and what follows from known answers in the plan; returns those to ask, in order."""
        to_ask: list[Request] = []
        for request in requests:
            sharing = plan.setdefault(request.request_id, [])
            sharing.append(request)
            if request.request_id in known:
                to_ask += follow(request)
            elif len(sharing) == 1:
                to_ask.append(request)
        return to_ask

    def follow(request: Request) -> list[Request]:
        row, chunk = known[request.request_id], by_id[request.chunk_id]
        return enter(planner.follow_ups(request, row["text"], row["finish_reason"], chunk))

    queue = deque(enter(planner.initial(by_id.values())))
    ahead: deque[Request] = deque()
    num_planned, num_asked = len(plan), 0
    if queue:
        engine = make_engine()
        try:
            with ledger.writer() as writer:
                for completions in _answer(engine, ahead, queue, 2 * settings.max_num_seqs):
                    for completion in completions:
                        sharing = plan[completion.request_id]
                        row = _row(sharing[0], completion, model)
                        writer.append(row)
                        known[completion.request_id] = row
                        for request in sharing:
                            ahead.extend(follow(request))
                        num_asked += 1
                        progress(num_asked, num_asked + len(ahead) + len(queue) + engine.num_running, "answers")
                    writer.flush_if_due()
        finally:
            engine.close()
        num_planned = len(plan)
        plan.clear()  # answers came in any order; the result has the order of the plan
        enter(planner.initial(by_id.values()))
    rows = [
        {**known[request_id], "chunk_id": first.chunk_id, "template": first.template.name}
        for request_id, (first, *_) in plan.items()
        if request_id in known
    ]
    return Generated(pl.DataFrame(rows, schema=SCHEMA), num_planned, num_asked)


def _answer(
    engine: Engine, ahead: deque[Request], queue: deque[Request], max_in_flight: int
) -> Iterator[list[Completion]]:
    """What the engine finishes, poll by poll: also when that is nothing, so that the caller gets its turn.

    Requests in `ahead` go before those in `queue`; the caller may add to both. A request that failed goes to
    the end of the queue again, up to `MAX_ATTEMPTS` attempts in all.
    """
    running: dict[str, Request] = {}
    failures: Counter[str] = Counter()
    while ahead or queue or engine.num_running:
        while (ahead or queue) and engine.num_running < max_in_flight:
            request = (ahead or queue).popleft()
            running[request.request_id] = request
            engine.submit(request.request_id, request.template.messages(**request.values), request.sampling)
        finished = []
        for completion in engine.poll():
            request = running.pop(completion.request_id)
            if completion.failed:
                failures[request.request_id] += 1
            if completion.failed and failures[request.request_id] < MAX_ATTEMPTS:
                queue.append(request)
            else:
                finished.append(completion)
        yield finished


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
        "finish_reason": completion.finish_reason,
        "text": completion.text,
        "error": completion.error,
    }


def make_engine(settings: GenerateSettings, model_folder: Path | str) -> Engine:
    """The engine that the settings name, on the model in `model_folder` (or a Hugging Face id)."""
    from active_reading.augment.engine import EchoEngine, VllmEngine

    if settings.engine == "echo":
        return EchoEngine()
    return VllmEngine(str(model_folder), settings.max_model_len, settings.max_num_seqs, settings.seed)
