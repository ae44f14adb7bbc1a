"""Evaluating the tiny model: every field is there, counted and finite, and equals the rows it stands on."""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from active_reading.eval import evaluate as evaluate_module
from active_reading.eval.answers import Answer, ClosedBook
from active_reading.eval.ceilings import Passage
from active_reading.eval.evaluate import evaluate_model
from active_reading.eval.questions import docstrings, general_questions, general_text
from active_reading.eval.settings import EvaluateSettings
from active_reading.eval.texts import TextScores
from active_reading.train.load import load_model

GOLD = [
    {"question": "Where was Orsella born?", "answers": ["Pellamire", "in Pellamire"], "document": "orsella.md"},
    {"question": "When was Orsella born?", "answers": ["1921"], "document": "orsella.md"},
    {"question": "What did Orsella keep?", "answers": ["a heron"]},
]
SCORES = ("f1", "exact_match", "answer_nll")


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gold") / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    return path


def evaluate(model: Path, questions: Path | None, **changes: Any) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    settings = EvaluateSettings(
        questions=str(questions) if questions else None,
        few_shot=2,
        max_new_tokens=10,
        batch_size=2,
        general_limit=3,
    ).model_copy(update=changes)
    scores = evaluate_model(model, model, settings, lambda done, total, unit: told.append((done, total)))
    return scores, told


@pytest.fixture(scope="module")
def scored(tiny_model, questions) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    return evaluate(tiny_model, questions)


def test_every_set_is_counted_and_every_number_is_finite_with_an_error(scored):
    scores = scored[0]
    assert set(scores) == {"learning", "retention", "divergence", "ceilings", "slot_sharing", "answers", "kept"}
    assert set(scores["retention"]) == {"general_questions", "general_text", "docstrings"}
    for summary in (scores["learning"], scores["retention"]["general_questions"]):
        assert summary.keys() == {"n", *SCORES, *(f"{key}_se" for key in SCORES)}
    for name in ("general_text", "docstrings"):
        assert scores["retention"][name].keys() == {"n", "nll", "nll_se"}
    for summary in (scores["learning"], *scores["retention"].values()):
        assert summary["n"] == 3
        assert all(math.isfinite(value) for value in summary.values())
    assert scores["learning"]["answer_nll"] > 0
    assert scores["learning"]["answer_nll_se"] > 0


def test_there_is_one_row_per_gold_question_in_order(scored):
    rows = scored[0]["answers"]
    assert [row["question"] for row in rows] == [row["question"] for row in GOLD]
    assert [row["answers"] for row in rows] == [row["answers"] for row in GOLD]
    assert [row["document"] for row in rows] == ["orsella.md", "orsella.md", None]
    assert all(isinstance(row["answer"], str) for row in rows)


def test_the_summary_is_the_mean_and_standard_error_of_the_rows(scored):
    rows, learning = scored[0]["answers"], scored[0]["learning"]
    for key in SCORES:
        values = [row[key] for row in rows]
        assert learning[key] == pytest.approx(mean(values))
        assert learning[f"{key}_se"] == pytest.approx(stdev(values) / 3**0.5)


def test_there_is_one_row_per_item_of_the_retention_sets_too(scored):
    kept, retention = scored[0]["kept"], scored[0]["retention"]
    for name, key in (("general_questions", "answer_nll"), ("general_text", "nll"), ("docstrings", "nll")):
        values = [row[key] for row in kept if row["set"] == name]
        assert retention[name][key] == pytest.approx(mean(values))
        assert len(values) == retention[name]["n"]
    assert len(kept) == 9


def test_scores_are_split_by_kind_where_there_is_more_than_one(tiny_model, tmp_path, scored):
    path = tmp_path / "kinds.jsonl"
    kinds = ["seen", None, "seen"]
    rows = [{**row, "kind": kind} for row, kind in zip(GOLD, kinds, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    learning = evaluate(tiny_model, path)[0]["learning"]
    first, second, third = (row["answer_nll"] for row in scored[0]["answers"])
    assert {kind: block["n"] for kind, block in learning["kinds"].items()} == {"seen": 2, "of no kind": 1}
    assert learning["kinds"]["seen"]["answer_nll"] == pytest.approx((first + third) / 2, rel=1e-4)
    assert learning["kinds"]["of no kind"]["answer_nll"] == pytest.approx(second, rel=1e-4)


def test_answers_that_cannot_be_given_are_refused_before_the_model_is_loaded(monkeypatch, tiny_model, questions):
    monkeypatch.setattr("active_reading.eval.evaluate.load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=r"questions.jsonl:1: .*evaluate.max_new_tokens=4 .*=10"):
        evaluate(tiny_model, questions, max_new_tokens=4)


def test_a_model_whose_scores_are_no_numbers_is_named_with_the_item(monkeypatch, tiny_model):
    broken = general_text()[1:3]
    monkeypatch.setattr(
        "active_reading.eval.evaluate.text_scores",
        lambda _, __, texts, *___: [TextScores(math.nan if text in broken else 2.0, None) for text in texts],
    )
    with pytest.raises(ValueError, match=r"general_text: the NLL of 2 of 3 items is not a number") as error:
        evaluate(tiny_model, None)
    assert str(tiny_model) in str(error.value)
    assert general_text()[1][:20] in str(error.value)


def test_the_scores_can_be_written_as_json(scored):
    assert json.loads(json.dumps(scored[0], allow_nan=False)) == scored[0]


def test_progress_rises_to_the_total(scored):
    done = [done for done, _ in scored[1]]
    assert {total for _, total in scored[1]} == {4 * 3}
    assert done == sorted(done)
    assert done[-1] == 12


def test_without_gold_questions_only_retention_is_measured(tiny_model, scored):
    scores, _ = evaluate(tiny_model, None)
    assert scores["learning"] is None
    assert scores["answers"] == []
    for name, block in scored[0]["retention"].items():  # which may have shared a batch with gold questions
        assert scores["retention"][name] == pytest.approx(block, rel=1e-5), name


def test_the_batch_size_changes_no_score(tiny_model, questions, scored):
    scores, _ = evaluate(tiny_model, questions, batch_size=16)
    assert [row["answer"] for row in scores["answers"]] == [row["answer"] for row in scored[0]["answers"]]
    for name, summary in scores["retention"].items():
        assert summary == pytest.approx(scored[0]["retention"][name], rel=1e-4), name


def test_the_number_of_examples_matters(tiny_model, questions, scored):
    scores, _ = evaluate(tiny_model, questions, few_shot=0)
    assert scores["learning"]["answer_nll"] != pytest.approx(scored[0]["learning"]["answer_nll"], rel=1e-3)


def test_docstrings_are_the_same_in_every_process_and_of_some_length():
    texts = docstrings()
    assert texts == sorted(texts), "never in the order of a set"
    assert len(texts) == len(set(texts)) == 24
    assert all(300 <= len(text) <= 1000 for text in texts)


def test_no_limit_means_every_item(monkeypatch, tiny_model):
    """The sets at their full length, with the costly part of scoring replaced."""

    class Book:
        def __init__(self, *_: Any) -> None: ...

        def ask(self, questions: list[Any]) -> list[Answer]:
            return [Answer(question.answers[0], 1.0) for question in questions]

    monkeypatch.setattr(evaluate_module, "ClosedBook", Book)
    monkeypatch.setattr(
        evaluate_module, "text_scores", lambda _, __, texts, *___: [TextScores(2.0, None)] * len(texts)
    )
    scores, _ = evaluate(tiny_model, None, general_limit=0)
    retention = scores["retention"]
    assert retention["general_questions"]["n"] == len(general_questions())
    assert retention["general_text"]["n"] == len(general_text())
    assert retention["docstrings"]["n"] == len(docstrings())
    assert retention["general_questions"]["f1"] == retention["general_questions"]["exact_match"] == 1.0


PASSAGES = [
    Passage("Orsella was born in Pellamire in the year 1921, and never left it.", frozenset({"orsella.md"})),
    Passage("Bramund kept bees. He kept a heron, too.", frozenset({"bramund.md"})),
]


def test_what_was_answered_is_not_asked_again_and_new_scores_need_no_model(
    monkeypatch, tiny_model, questions, tmp_path
):
    store = tmp_path / "answers.jsonl"
    settings = EvaluateSettings(
        questions=str(questions), few_shot=2, max_new_tokens=10, batch_size=2, general_limit=3
    )
    first = evaluate_model(tiny_model, tiny_model, settings, lambda *_: None, PASSAGES, store)
    lines = store.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 4 * 3 + 3 + 1, "three sets and the right passages, and the one that search finds besides"
    monkeypatch.setattr("active_reading.eval.evaluate.load_model", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("active_reading.eval.evaluate.f1", lambda *_: 0.25)
    again = evaluate_model(tiny_model, tiny_model, settings, lambda *_: None, PASSAGES, store)
    assert again["learning"]["f1"] == 0.25
    assert again["learning"]["answer_nll"] == first["learning"]["answer_nll"]
    assert again["retention"]["docstrings"] == first["retention"]["docstrings"]


def test_an_evaluation_that_was_killed_goes_on_with_the_next_item(monkeypatch, tiny_model, questions, tmp_path):
    store = tmp_path / "answers.jsonl"
    settings = EvaluateSettings(
        questions=str(questions), few_shot=2, max_new_tokens=10, batch_size=2, general_limit=3
    )
    whole = evaluate_model(tiny_model, tiny_model, settings, lambda *_: None, (), None)
    for cut in (2, 5, 7):
        told: list[int] = []

        def stop(done: int, total: int, _: str, cut: int = cut, told: list[int] = told) -> None:
            told.append(done)
            if done > cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate_model(tiny_model, tiny_model, settings, stop, (), store)
        with store.open("ab") as file:
            file.write(b'{"key": "cut')  # a kill in the middle of a line
    asked = []
    ask = ClosedBook.ask
    monkeypatch.setattr(ClosedBook, "ask", lambda book, part: asked.extend(part) or ask(book, part))
    resumed = evaluate_model(tiny_model, tiny_model, settings, lambda *_: None, (), store)
    assert asked == [], "all six questions were answered before the last kill"
    assert [row["answer"] for row in resumed["answers"]] == [row["answer"] for row in whole["answers"]]
    assert resumed["retention"]["docstrings"]["nll"] == pytest.approx(
        whole["retention"]["docstrings"]["nll"], rel=1e-4
    )


def test_the_distance_from_the_base_is_measured_on_new_and_on_general_text(tiny_model, tmp_path):
    """A model that differs from the base in one weight; of the base itself nothing is measured."""
    model = load_model(tiny_model)
    model.model.embed_tokens.weight.data[5:90] += 0.3
    model.save_pretrained(tmp_path / "changed")
    settings = EvaluateSettings(general_limit=1, divergence_texts=2)
    found = evaluate_model(tmp_path / "changed", tiny_model, settings, lambda *_: None, PASSAGES)["divergence"]
    assert {name: block["n"] for name, block in found.items()} == {"new_text": 2, "general_text": 2}
    assert all(block["kl"] > 0 for block in found.values())


def test_a_text_is_read_once_for_its_likelihood_and_its_distance(monkeypatch, tiny_model, tmp_path):
    load_model(tiny_model).save_pretrained(tmp_path / "copy")
    read: list[str] = []
    monkeypatch.setattr(
        "active_reading.eval.evaluate.text_scores",
        lambda _, __, texts, ___, base: read.extend(texts) or [TextScores(2.0, 0.5 if base else None)] * len(texts),
    )
    settings = EvaluateSettings(general_limit=3, divergence_texts=100)
    scores = evaluate_model(tmp_path / "copy", tiny_model, settings, lambda *_: None)
    assert scores["divergence"]["general_text"] == {"n": 40, "kl": 0.5, "kl_se": 0.0}
    assert scores["retention"]["general_text"]["n"] == 3
    assert sorted(read) == sorted([*general_text(), *docstrings()[:3]])


def test_the_distance_of_an_adapter_needs_no_second_model(monkeypatch, tiny_model, tmp_path):
    """A trained LoRA against the same weights as a full model."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(load_model(tiny_model), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "whole")
    loaded: list[str] = []
    load = evaluate_module.load_model
    monkeypatch.setattr(
        evaluate_module, "load_model", lambda path, *how: loaded.append(str(path)) or load(path, *how)
    )
    settings = EvaluateSettings(general_limit=1, divergence_texts=2)
    found = {
        name: evaluate_model(tmp_path / name, tiny_model, settings, lambda *_: None, PASSAGES)["divergence"]
        for name in ("adapter", "whole")
    }
    assert loaded == [str(tmp_path / "adapter"), str(tmp_path / "whole"), str(tiny_model)]
    for name, block in found["whole"].items():
        assert found["adapter"][name] == pytest.approx(block, rel=1e-4), name
        assert block["kl"] > 0.01


def test_a_model_without_a_tokenizer_is_named(tiny_model, tmp_path):
    load_model(tiny_model).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare has no tokenizer that loads: copy tokenizer\.json"):
        evaluate(tmp_path / "bare", None)


@pytest.mark.parametrize("form", ["Question:", "{question} ", "Q: {question}\n"])
def test_a_format_without_the_question_or_with_space_at_its_end_is_refused(form):
    with pytest.raises(ValueError, match=r"must hold \{question\} and end in a word or mark"):
        EvaluateSettings(question_format=form)


def test_an_adapter_is_asked_on_the_base_that_is_given_wherever_its_own_lay(tiny_model, questions, tmp_path):
    lora = get_peft_model(load_model(tiny_model), LoraConfig(r=2, target_modules="all-linear"))
    lora.save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tiny_model), str(tmp_path / "no-more")))
    settings = EvaluateSettings(questions=str(questions), few_shot=2, max_new_tokens=10, general_limit=3)
    scores = evaluate_model(tmp_path, tiny_model, settings, lambda *_: None)
    assert scores["divergence"]["general_text"]["kl"] == pytest.approx(0, abs=1e-6), "a fresh adapter says the same"
