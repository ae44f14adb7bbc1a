"""Evaluate one model: what it learned (gold questions) and what it kept (general questions and text).

Out: a summary of means with standard errors, and one row per question or text with its scores.
NOT covered: standard benchmarks, intervals over seeds, model grading.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from active_reading.eval.answers import ClosedBook, batched, text_nll
from active_reading.eval.questions import (
    Question,
    check_lengths,
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
SCORES = ("f1", "exact_match", "answer_nll", "nll")
NO_KIND = "of no kind"  # questions without a kind, where others have one


def evaluate_model(
    model_path: str | Path, base_model: str | Path, settings: EvaluateSettings, progress: Progress
) -> dict[str, Any]:
    """Score the model in `model_path`; see `train.load.load_model` for what it may be.

    Returns `learning` (None without gold questions; with `kinds`, a summary of each kind of question, where there
    is more than one), `retention`, `answers` (one row per gold question) and `kept` (one row per item of the
    retention sets, with its `set`). Raises ValueError for questions that cannot be asked, before the model is
    loaded, and for a score that is not a number, naming the model and the item.
    """
    tokenizer = load_tokenizer(base_model)
    limit = settings.general_limit or None
    sets = {"general_questions": general_questions()[:limit]}
    if settings.questions:
        sets["gold"] = read_questions(Path(settings.questions))
        check_lengths(
            sets["gold"],
            lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
            settings.max_new_tokens,
        )
    texts = {"general_text": general_text()[:limit], "docstrings": docstrings()[:limit]}
    model = load_model(model_path, compute_dtype()).eval()
    if torch.cuda.is_available():
        model = model.cuda()
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
    for name, passages in texts.items():
        losses = text_nll(model, tokenizer, passages, settings.batch_size // 16 or 1)
        rows[name] = [{"text": text, "nll": loss} for text, loss in zip(passages, losses, strict=True)]
        done += len(passages)
        progress(done, total, "items")
    for name in rows:
        _check_finite(rows[name], name, model_path)
    gold = rows.pop("gold", [])
    return {
        "learning": _summary(gold) | _kinds(gold) if gold else None,
        "retention": {name: _summary(rows[name]) for name in rows},
        "answers": gold,
        "kept": [{"set": name, **row} for name in rows for row in rows[name]],
    }


def _score(book: ClosedBook, questions: list[Question]) -> list[dict[str, Any]]:
    answers = book.answer(questions)
    losses = book.answer_nll(questions)
    return [
        {
            "question": question.question,
            "answers": list(question.answers),
            "document": question.document,
            "kind": question.kind,
            "answer": answer,
            "f1": f1(answer, list(question.answers)),
            "exact_match": exact_match(answer, list(question.answers)),
            "answer_nll": loss,
        }
        for question, answer, loss in zip(questions, answers, losses, strict=True)
    ]


def _check_finite(rows: list[dict[str, Any]], name: str, model_path: str | Path) -> None:
    """A mean would pass a NaN on to the report, and one without it would be of other items than another model's."""
    wrong = [row for row in rows for key in SCORES if key in row and not math.isfinite(row[key])]
    if wrong:
        item = wrong[0].get("question") or wrong[0].get("text")
        raise ValueError(
            f"{name}: the NLL of {len(wrong)} of {len(rows)} items is not a number (the first: {item!r}): "
            f"the model in {model_path} is broken; train it again at a lower learning rate"
        )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"n": len(rows)}
    for key in SCORES:
        if key in rows[0]:
            summary[key], summary[f"{key}_se"] = mean_and_error([row[key] for row in rows])
    return summary


def _kinds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`kinds`, in order of appearance: a summary of each kind's rows; nothing where all are of one kind."""
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        of_kind.setdefault(row["kind"] or NO_KIND, []).append(row)
    return {"kinds": {kind: _summary(part) for kind, part in of_kind.items()}} if len(of_kind) > 1 else {}
