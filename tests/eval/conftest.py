"""Made-up results of seven models, as the report takes them."""

from typing import Any

import pytest
from made_up_results import DOCUMENT, HOSTILE, SPAN, fake_comparisons, fake_model


def fake_template(name: str, dropped: dict[str, int]) -> dict[str, Any]:
    requests = {"planned": 168, "accepted": 160, "rejected": 6, "failed": 2}
    return {"template": name} | requests | {
        "texts": 160, "kept": 90, "distinct": 80, "tokens": 9000, "dropped": dropped
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    models = [
        fake_model("base", 0.03, 4.1, 0.0),
        fake_model("naive-full", 0.18, 3.2, 0.41),
        fake_model("naive-lora", 0.12, 3.5, 0.12),
        fake_model("naive-memory", 0.15, 3.4, 0.02),
        fake_model("augmented-full", 0.55, 1.6, 0.74),
        fake_model("augmented-lora", 0.11, 2.2, 0.25),
        fake_model("augmented-memory", 0.58, 1.7, 0.04),
    ]
    answer = {"answer": HOSTILE, "f1": 0.0}
    example = {"id": "9f3a", "template": "paraphrase", "strategy": None, "text": f"Born 1921. {HOSTILE}"}
    source = {"source": "people/orsella.md", "title": "Orsella", "start": SPAN[0], "end": SPAN[1]}
    model = {"model": "SmolLM2-135M-Instruct", "revision": "abc123"}
    return {
        "version": "0.1.0",
        "study": "demo",
        "created": "2026-11-22T23:10:00+00:00",
        "corpus": {"documents": 28, "chunks": 84, "characters": 24000, "tokens": 6100}
        | {"skipped": [{"source": "a.bin", "reason": "not UTF-8 text"}]},
        "generator": model | {"temperature": 0.7, "top_p": 0.95, "seed": 0},
        "student": model,
        "templates": [
            fake_template("paraphrase", {"ungrounded": 50, "copy": 20, "duplicate": 10}),
            fake_template("question_answer", {"ungrounded": 61, "too_short": 9, "duplicate": 10}),
        ],
        "diversity": [
            {"template": "chunk", "sample": 84, "distinct": 0.912, "copied": None, "copied_error": None},
            {"template": "paraphrase", "sample": 90, "distinct": 0.731, "copied": 0.214, "copied_error": 0.01},
        ],
        "coverage": [
            {"source": "full.md", "sentences": 9, "sentences_mentioned": 9, "numbers": 1, "numbers_mentioned": 1},
            {"source": "thin.md", "sentences": 8, "sentences_mentioned": 2, "numbers": 4, "numbers_mentioned": 0},
        ],
        "models": models,
        "comparisons": fake_comparisons(models),
        "questions": [
            {"question": "When was Orsella born?", "answers": ["1921"], "document": "people/orsella.md"}
            | {"model_answers": {"base": answer, "augmented-memory": {"answer": "1921", "f1": 1.0}}}
        ],
        "examples": [example | source | {"document_text": DOCUMENT}],
        "stages": [{"name": "generate", "seconds": 210.5}, {"name": "train", "seconds": 31.0}],
    }
