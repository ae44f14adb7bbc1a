"""Evaluate one model: what it learned (gold questions) and what it kept (general questions and text, tasks).

Out: a summary of means with standard errors, and one row per question or text with its scores. Every answer is
stored as it comes (`store.py`); scores are computed from what is stored.
NOT covered: intervals over seeds; grading by a model (`grade.py`).
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from active_reading.eval.answers import ClosedBook
from active_reading.eval.ceilings import Passage, with_passages
from active_reading.eval.questions import (
    Question,
    by_kind,
    check_lengths,
    docstrings,
    evenly,
    few_shot_examples,
    general_questions,
    general_text,
    read_questions,
)
from active_reading.eval.scores import exact_match, f1, mean_and_error
from active_reading.eval.settings import EvaluateSettings
from active_reading.eval.slot_sharing import changed_rows, slot_sharing
from active_reading.eval.store import AnswerStore, Stored, question_key, text_key
from active_reading.eval.texts import batched, text_scores
from active_reading.train import precision
from active_reading.train.load import base_of, load_model, load_tokenizer
from active_reading.train.objectives import BaseLogits, untouched_logits
from active_reading.train.out_of_memory import out_of_memory
from active_reading.train.student import PATCH_NAME

Progress = Callable[[int, int, str], None]
Row = dict[str, Any]
TextSets = dict[tuple[str, str], list[str]]  # by what is measured of the texts (nll, kl) and by the set's name
SCORES = ("f1", "exact_match", "answer_nll", "nll", "kl")
SHARING = 1  # goes up when slot sharing is computed otherwise
TEXTS_A_BATCH = 16  # a text is about this many times as long as a question


def evaluate_model(
    model_path: str | Path,
    base_model: str | Path,
    settings: EvaluateSettings,
    progress: Progress,
    passages: Sequence[Passage] = (),
    store: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Score the model in `model_path`; see `train.load.load_model` for what it may be.

    `passages` are what was to be learned. `store` is the file of this model's answers: what it has is not asked
    again, and a model that has answered everything is not loaded. `folder` gets the files of the harness's tasks.

    Returns `learning` (None without gold questions; with `kinds`, a summary of each kind of question, where there
    is more than one), `retention`, `divergence` (from the base, on the passages and on general text; empty for the
    base itself), `ceilings` (of the base only: what it scores when it reads a passage), `slot_sharing` (of a memory
    with its patch beside it, on the documents of `passages`; else None), `answers` (one row per gold question) and
    `kept` (one row per item of the retention sets, with its `set`). Raises ValueError for questions that cannot be
    asked, before the model is loaded, for a lack of memory, and for a score that is not a number, naming model and
    item.
    """
    asked = _Asked(model_path, base_model, settings, AnswerStore(store))
    limit, is_base = settings.general_limit or None, str(model_path) == str(base_model)
    gold = read_questions(Path(settings.questions)) if settings.questions else []
    check_lengths(gold, asked.num_tokens, settings.max_new_tokens)
    sets = {"general_questions": general_questions()[:limit], "gold": gold}
    if is_base and settings.ceilings and gold and passages:
        sets |= with_passages(gold, passages)
    texts: TextSets = {("nll", "general_text"): general_text()[:limit], ("nll", "docstrings"): docstrings()[:limit]}
    if not is_base and settings.divergence_texts:
        new = [passage.text for passage in passages if asked.num_tokens(passage.text) > 1]
        compared = {"new_text": new, "general_text": general_text()}
        texts |= {("kl", name): _spread(some, settings.divergence_texts) for name, some in compared.items() if some}
    done, total = 0, sum(map(len, sets.values())) + sum(map(len, texts.values()))

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total, "items")

    cure = "lower evaluate.batch_size; what was answered is kept"
    with out_of_memory(cure):
        rows, of_texts = asked.questions(sets, tell), asked.texts(texts, tell)
    rows |= {name: found for (kind, name), found in of_texts.items() if kind == "nll"}
    away = {name: found for (kind, name), found in of_texts.items() if kind == "kl"}
    for name, found in (*rows.items(), *((f"divergence on {name}", found) for name, found in away.items())):
        _check_finite(found, name, model_path, is_base)
    answers = rows.pop("gold")
    ceilings = {name: rows.pop(name) for name in sets if name not in ("gold", "general_questions")}
    summaries = {name: _summary(found) for name, found in rows.items()}
    if settings.tasks:
        with out_of_memory(cure):
            tasks, items = asked.tasks(store, folder, "base" if is_base else Path(model_path).name)
        summaries, rows = summaries | tasks, rows | items
    return {
        "learning": _summary(answers) | _kinds(answers) if answers else None,
        "retention": summaries,
        "divergence": {name: _summary(found) for name, found in away.items()},
        "ceilings": {name: _summary(found) | _kinds(found) for name, found in ceilings.items()},
        "slot_sharing": asked.sharing(passages),
        "answers": answers,
        "kept": [{"set": name, **row} for name in rows for row in rows[name]],
    }


class _Asked:
    """A model and what it has answered so far; it is loaded when something is missing."""

    def __init__(
        self, model_path: str | Path, base_model: str | Path, settings: EvaluateSettings, store: AnswerStore
    ) -> None:
        self.model_path, self.base_model, self.settings, self.store = model_path, base_model, settings, store
        self.tokenizer = load_tokenizer(base_model)
        self.examples = few_shot_examples()[: settings.few_shot]
        self.how = settings.max_new_tokens, settings.question_format

    @cached_property
    def model(self) -> Any:
        # Where the base lies now: an adapter names the place where it lay when it was trained.
        return _on_device(self.model_path, self.base_model)

    @cached_property
    def base_logits(self) -> BaseLogits:
        """From the model itself where it is an adapter on the base, otherwise from a second model."""
        if str(base_of(self.model_path)) != str(self.model_path):
            return untouched_logits(self.model)
        base = _on_device(self.base_model)
        return lambda **read: base(**read, use_cache=False).logits

    @cached_property
    def book(self) -> ClosedBook:
        return ClosedBook(self.model, self.tokenizer, self.examples, *self.how)

    def num_tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def questions(self, sets: dict[str, list[Question]], tell: Callable[[int], None]) -> dict[str, list[Row]]:
        """The scores of each set's questions; what the store does not have is asked, a batch at a time."""
        asked = [question for questions in sets.values() for question in questions]
        keys = {question: question_key(question, self.examples, *self.how) for question in asked}
        missing = list({key: q for q, key in keys.items() if self.store.get(key) is None}.values())
        tell(len(asked) - len(missing))
        # Little padding, and together what stands behind one passage: a batch reads it once.
        missing.sort(key=lambda q: (len(q.context), q.context, self.num_tokens(f"{q.question} {q.answers[0]}")))
        plain, behind = ([q for q in missing if bool(q.context) is read] for read in (False, True))
        size = self.settings.batch_size
        for batch in (*batched(plain, size), *batched(behind, max(1, size // 2))):  # passages are long
            answers = zip(batch, self.book.ask(batch), strict=True)
            self.store.add([(keys[q], {"answer": answer.text, "nll": answer.gold_nll}) for q, answer in answers])
            tell(len(batch))
        return {
            name: [_scored(question, self.store.rows[keys[question]]) for question in questions]
            for name, questions in sets.items()
        }

    def texts(self, sets: TextSets, tell: Callable[[int], None]) -> dict[tuple[str, str], list[Row]]:
        """The scores of each set's texts; a text of which both are wanted is read once."""
        keys = {(kind, text): text_key(kind, text) for (kind, _), texts in sets.items() for text in texts}
        missing = {pair: key for pair, key in keys.items() if self.store.get(key) is None}
        tell(sum(map(len, sets.values())) - len(missing))
        size = max(1, self.settings.batch_size // TEXTS_A_BATCH)
        for compared in (False, True):
            some = {text for _, text in missing if (("kl", text) in missing) is compared}
            for batch in batched(sorted(some, key=lambda text: (len(text), text)), size):  # little padding
                base = self.base_logits if compared else None
                scores = dict(zip(batch, text_scores(self.model, self.tokenizer, batch, size, base), strict=True))
                new = [(kind, text) for kind, text in missing if text in scores]
                self.store.add([(keys[kind, text], {kind: getattr(scores[text], kind)}) for kind, text in new])
                tell(len(new))
        return {
            (kind, name): [{"text": text, kind: self.store.rows[keys[kind, text]][kind]} for text in texts]
            for (kind, name), texts in sets.items()
        }

    def sharing(self, passages: Sequence[Passage]) -> Row | None:
        """Which documents read the same rows of what a memory learned."""
        patch = Path(self.model_path) / PATCH_NAME
        if not patch.is_file():
            return None
        documents: dict[str, list[str]] = {}
        for passage in passages:
            documents.setdefault(passage.source or min(passage.documents), []).append(passage.text)
        key = text_key(f"slot sharing {SHARING}", json.dumps(documents))
        if self.store.get(key) is None:
            found = slot_sharing(self.model, self.tokenizer, changed_rows(patch), documents)
            self.store.add([(key, {"sharing": found})])
        shared: Row | None = self.store.rows[key]["sharing"]
        return shared

    def tasks(
        self, store: Path | None, folder: Path | None, name: str
    ) -> tuple[dict[str, Row], dict[str, list[Row]]]:
        """The harness's tasks, with its own cache beside the store."""
        from active_reading.eval.harness import run_tasks

        size = max(1, self.settings.batch_size // TEXTS_A_BATCH)
        cache = store.with_suffix("") if store else None
        return run_tasks(self.model, self.tokenizer, self.settings.tasks, name, size, cache, folder)


def _on_device(path: str | Path, base: str | Path | None = None) -> Any:
    model = load_model(path, precision.compute_dtype(), base).eval()
    return model.cuda() if torch.cuda.is_available() else model


def _spread(texts: list[str], wanted: int) -> list[str]:
    """Some of the texts, each once, evenly spread."""
    texts = list(dict.fromkeys(texts))
    return [texts[place] for place in evenly(len(texts), wanted)]


def _scored(question: Question, stored: Stored) -> Row:
    accepted = list(question.answers)
    return {
        "question": question.question,
        "answers": accepted,
        "document": question.document,
        "kind": question.kind,
        "answer": stored["answer"],
        "f1": f1(stored["answer"], accepted),
        "exact_match": exact_match(stored["answer"], accepted),
        "answer_nll": stored["nll"],
    }


def _check_finite(rows: list[dict[str, Any]], name: str, model_path: str | Path, is_base: bool) -> None:
    """A mean would pass a NaN on to the report, and one without it would be of other items than another model's."""
    wrong = [row for row in rows for key in SCORES if key in row and not math.isfinite(row[key])]
    if wrong:
        item = wrong[0].get("question") or wrong[0].get("text")
        cure = "get its weights again" if is_base else "train it again at a lower learning rate"
        raise ValueError(
            f"{name}: the NLL of {len(wrong)} of {len(rows)} items is not a number (the first: {item!r}): "
            f"the model in {model_path} is broken; {cure}"
        )


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {"n": len(rows)}
    for key in SCORES:
        if key in rows[0]:
            summary[key], summary[f"{key}_se"] = mean_and_error([row[key] for row in rows])
    return summary


def _kinds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`kinds`: a summary of each kind's rows; nothing where all are of one kind."""
    of_kind = by_kind(rows)
    return {"kinds": {kind: _summary(part) for kind, part in of_kind.items()}} if of_kind else {}
