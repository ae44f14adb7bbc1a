"""Evaluate one model: what it learned (gold questions) and what it kept (general questions and text).

Out: a summary of means with standard errors, and one row per question with its answer and scores.
NOT covered: standard benchmarks, intervals over seeds, model grading.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from active_reading.eval.answers import ClosedBook, batched, text_nll
from active_reading.eval.questions import (
    Question,
    docstrings,
    few_shot_examples,
    general_questions,
    general_text,
    read_questions,
)
from active_reading.eval.scores import exact_match, f1, mean_and_error
from active_reading.eval.settings import EvaluateSettings
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.precision import compute_dtype

Progress = Callable[[int, int, str], None]


def evaluate_model(
    model_path: str | Path, base_model: str | Path, settings: EvaluateSettings, progress: Progress
) -> dict[str, Any]:
    """Score the model in `model_path`; see `train.load.load_model` for what it may be.

    Returns `learning` (None without gold questions), `retention`, and `answers` (one row per gold question).
    """
    tokenizer = load_tokenizer(base_model)
    model = load_model(model_path, compute_dtype()).eval()
    if torch.cuda.is_available():
        model = model.cuda()
    limit = settings.general_limit or None
    sets = {"general_questions": general_questions()[:limit]}
    if settings.questions:
        sets["gold"] = read_questions(Path(settings.questions))
    texts = {"general_text": general_text()[:limit], "docstrings": docstrings()[:limit]}
    total = sum(map(len, sets.values())) + sum(map(len, texts.values()))
    book = ClosedBook(model, tokenizer, few_shot_examples()[: settings.few_shot], settings.max_new_tokens)
    done = 0
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, questions in sets.items():
        rows[name] = []
        for batch in batched(questions, settings.batch_size):
            rows[name] += _score(book, batch)
            done += len(batch)
            progress(done, total, "items")
    retention: dict[str, Any] = {"general_questions": _summary(rows["general_questions"])}
    for name, passages in texts.items():
        values = text_nll(model, tokenizer, passages, settings.batch_size // 16 or 1)
        mean, error = mean_and_error(values)
        retention[name] = {"n": len(values), "nll": mean, "nll_se": error}
        done += len(passages)
        progress(done, total, "items")
    gold = rows.get("gold", [])
    return {"learning": _summary(gold) if gold else None, "retention": retention, "answers": gold}


def _score(book: ClosedBook, questions: list[Question]) -> list[dict[str, Any]]:
    answers = book.answer(questions)
    losses = book.answer_nll(questions)
    return [
        {
            "question": question.question,
            "answers": list(question.answers),
            "document": question.document,
            "answer": answer,
            "f1": f1(answer, list(question.answers)),
            "exact_match": exact_match(answer, list(question.answers)),
            "answer_nll": loss,
        }
        for question, answer, loss in zip(questions, answers, losses, strict=True)
    ]


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"n": len(rows)}
    for key in ("f1", "exact_match", "answer_nll"):
        summary[key], summary[f"{key}_se"] = mean_and_error([row[key] for row in rows])
    return summary
