"""What the tests of generate share: chunks, templates, an engine that answers as it is told, a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.engine import Completion, EchoEngine, Engine
from active_reading.augment.generate import generate
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse

MODEL = ModelIdentity("tiny", "r1")
TEXTS = {
    "owl": "The owl sleeps in the oak. The oak stands by the lake. The lake is deep.",
    "otter": "The otter swims in the lake. The otter eats fish.",
    "eel": "The eel hides under one stone. The eel is long.",
}
ONE_TEMPLATE = [TemplateUse(template="paraphrase")]
SHIPPED = [
    TemplateUse(template="paraphrase", replicates=2),
    TemplateUse(template="questions"),
    TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy", replicates=3),
]


class ScriptedEngine:
    """Answers in batches of three, newest first, with `answer(prompt)`; remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str], stop_after: int | None = None) -> None:
        self.answer = answer
        self.stop_after = stop_after
        self.prompts: list[str] = []
        self.waiting: list[tuple[str, str]] = []
        self.num_running = 0
        self.most_running = 0
        self.closed = False

    def submit(self, request_id, messages, sampling):
        self.prompts.append(messages[-1]["content"])
        self.waiting.append((request_id, messages[-1]["content"]))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)

    def poll(self):
        if self.stop_after is not None and len(self.prompts) - len(self.waiting) >= self.stop_after:
            raise KeyboardInterrupt
        batch, self.waiting = self.waiting[-3:][::-1], self.waiting[:-3]
        self.num_running -= len(batch)
        return [Completion(request_id, self.answer(prompt), "stop", 9, 4) for request_id, prompt in batch]

    def close(self):
        self.closed = True


class Counted:
    """Makes engines and counts them."""

    def __init__(self, make: Callable[[], Engine] = EchoEngine) -> None:
        self.make = make
        self.engines: list[Any] = []

    def __call__(self) -> Engine:
        self.engines.append(self.make())
        return self.engines[-1]


def chunks_of(*names: str, title: str = "Animals") -> pl.DataFrame:
    rows = [
        {
            "chunk_id": f"chunk-{name}",
            "document_id": f"document-{name}",
            "start": 0,
            "end": len(TEXTS[name]),
            "num_tokens": 12,
            "text": TEXTS[name],
            "title": title,
        }
        for name in names
    ]
    return pl.DataFrame(rows)


def run(
    folder: Path,
    chunks: pl.DataFrame,
    templates: list[TemplateUse] | None = None,
    make: Callable[[], Engine] = EchoEngine,
    model: ModelIdentity = MODEL,
    **settings: Any,
) -> tuple[pl.DataFrame, int, Counted]:
    engines = Counted(make)
    wanted = GenerateSettings(engine="echo", templates=templates or SHIPPED, **settings)
    rows, num_planned, num_asked = generate(chunks, wanted, model, Ledger(folder), engines, lambda *_: None)
    assert num_planned == rows.height
    return rows, num_asked, engines


def never() -> Engine:
    raise AssertionError("the engine was started")
