"""Gold questions in a whole run: texts that ask them reach no training, and odd ones, or none, stop nothing."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from small_study import DOCUMENTS, GOLD, no_engine, only, results_of, study_in, times, write_project

from active_reading.flows.pipeline import run_plain
from active_reading.flows.steps import read_step


def ask(folder: Path, *questions: str) -> None:
    """Other gold questions."""
    lines = [json.dumps({"question": question, "answers": ["Pellamire"]}) + "\n" for question in questions]
    (folder / "gold.jsonl").write_text("".join(lines), encoding="utf-8")


def made_since(folder: Path, before: set[str]) -> set[str]:
    return {step for name in set(times(folder)) - before if (step := Path(name).parts[1].rpartition("-")[0])}


def test_other_gold_questions_that_no_text_holds_train_nothing_again(project, tiny_model, monkeypatch):
    """The texts are checked against them, and the card says against how many; the rows stay as they are."""
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    monkeypatch.setattr("active_reading.train.trainer.train_model", no_engine)
    before = set(times(project))
    ask(project, GOLD[0]["question"])
    run_plain(study_in(project, tiny_model, "train.methods=[full]"), "evaluate")
    evaluated = {f"evaluate-{name}" for name in ("base", "naive-full", "augmented-full")}
    assert made_since(project, before) == {"decontaminate", "export"} | evaluated


def test_a_gold_question_that_a_generated_text_holds_trains_again_on_the_augmented_data_alone(
    project, tiny_model, monkeypatch
):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    before = set(times(project))
    text = pl.read_parquet(only(project, "dedupe-*/distinct.parquet")).row(0, named=True)
    ask(project, text["text"])
    run_plain(study_in(project, tiny_model, "train.methods=[full]"), "train")
    assert made_since(project, before) == {"decontaminate", "export", "train-augmented-full"}
    removed = pl.read_parquet(project / "out" / "decontaminate-*" / "removed.parquet")
    assert text["id"] in removed["id"].to_list()


FAQ = "Many visitors ask us: where was ORSELLA Vantrill\nborn?! She was born in Pellamire by the river.\n"


def test_a_chunk_that_asks_a_gold_question_is_left_out_counted_and_told(tiny_model, tmp_path, caplog):
    folder = write_project(tmp_path)
    (folder / "documents" / "faq.md").write_text(FAQ, encoding="utf-8")
    dataset = run_plain(study_in(folder, tiny_model), "export")
    rows = pl.read_parquet(dataset / "data/text/*.parquet")
    assert rows.filter(pl.col("text").str.contains("(?i)where was ORSELLA")).is_empty()
    assert not rows.filter(pl.col("source") != "faq.md").is_empty()
    assert "faq.md" not in set(pl.read_parquet(dataset / "data/chunks/*.parquet")["source"])
    removed = pl.read_parquet(only(folder, "decontaminate-*/removed.parquet")).filter(template="chunk")
    assert removed.select("evaluation_set", "evaluation_text", "ngram").rows() == [
        ("gold", "Where was Orsella Vantrill born?", "where was orsella vantrill born")
    ]
    assert any("1 of" in line and "hold a text of the evaluation" in line for line in caplog.messages)
    summary = read_step(only(folder, "decontaminate-*")).summary["gold"]
    assert (summary["texts"], summary["removed_chunks"]) == (2, 1)
    assert f"| gold | 2 | {summary['removed']} | 1 | 0 |" in (dataset / "README.md").read_text(encoding="utf-8")

    kept = run_plain(study_in(folder, tiny_model, "decontaminate=false"), "export")
    assert "faq.md" in set(pl.read_parquet(kept / "data/chunks/*.parquet")["source"])
    assert "Off: texts may hold" in (kept / "README.md").read_text(encoding="utf-8")


def test_a_title_or_strategy_that_asks_a_gold_question_is_in_no_prompt_of_the_data_set(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    lake = folder / "documents" / "lake.txt"
    lake.rename(lake.with_name("how-deep-is-lake-umbrosel.txt"))
    ask(folder, "How deep is Lake Umbrosel?", "Read it backwards!")  # the echo proposes to read it backwards
    # With other seeds the echo's few texts of a chunk may be the same, and those of a strategy fall as duplicates.
    dataset = run_plain(study_in(folder, tiny_model, "dedupe.threshold=1", "generate.seed=2"), "export")
    rows = pl.read_parquet(dataset / "data/text/*.parquet")
    mine = rows.filter(pl.col("source").str.contains("umbrosel"))
    assert mine.height > 1, "facts may be learned"
    assert mine["title"].to_list() == mine["document_id"].to_list()
    assert set(rows["strategy"].drop_nulls()) == {"Read every second sentence first"}
    messages = str(pl.read_parquet(dataset / "data/messages/*.parquet")["messages"].to_list()).lower()
    assert "how deep" not in messages
    assert "backwards" not in messages
    removed = pl.read_parquet(only(folder, "decontaminate-*/removed.parquet"))
    assert removed.filter(template="title")["ngram"].to_list() == ["how deep is lake umbrosel"]
    assert set(removed.filter(template="apply_strategy")["ngram"]) == {"read it backwards"}


def test_generic_text_that_asks_a_gold_question_is_refused(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    texts = ["Clean.", "So: where was Orsella Vantrill BORN? Nobody knows."]
    (folder / "generic.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = (f"train.background={folder / 'generic.jsonl'}", "train.memory.background_texts=2")
    with pytest.raises(
        ValueError, match=r"generic.jsonl: 1 of 2 texts hold .* text 2 \('where was orsella"
    ) as error:
        run_plain(study_in(folder, tiny_model, *words), "ingest")
    assert "remove them from the file, or set decontaminate=false" in str(error.value)
    run_plain(study_in(folder, tiny_model, *words, "decontaminate=false"), "ingest")


def test_a_chunk_may_quote_a_gold_question_in_part(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    quoted = " ".join(DOCUMENTS["kettle.txt"].split()[:14])
    ask(folder, f"Is it true that {quoted}?")
    decontaminated = run_plain(study_in(folder, tiny_model), "decontaminate")
    assert any(quoted in text for text in pl.read_parquet(only(folder, "chunk-*/chunks.parquet"))["text"])
    assert "chunk" not in set(pl.read_parquet(decontaminated / "removed.parquet")["template"])


def test_documents_that_are_all_evaluation_are_refused_in_one_line(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    shutil.rmtree(folder / "documents")
    (folder / "documents").mkdir()
    (folder / "documents" / "faq.md").write_text(FAQ, encoding="utf-8")
    with pytest.raises(ValueError, match="every chunk of the documents holds a text of the evaluation") as error:
        run_plain(study_in(folder, tiny_model), "export")
    assert "\n" not in str(error.value)


def test_questions_about_no_document_of_the_corpus_are_told(project, tiny_model, caplog):
    first = {"question": "Where is Atlantis?", "answers": ["nowhere"], "document": "atlantis.txt"}
    gold = project / "gold.jsonl"
    gold.write_text(json.dumps(first) + "\n" + gold.read_text())
    run_plain(study_in(project, tiny_model, "train.methods=[full]"), "evaluate")
    told = "1 of 3 questions are about documents that the corpus does not have (the first: 'atlantis.txt')"
    assert f"gold.jsonl: {told}" in caplog.messages


def test_a_study_without_questions_reports_retention_only(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    changes = ("evaluate.questions=null", "train.methods=[full]", "train.data=[naive]")
    run_plain(study_in(folder, tiny_model, *changes), "report")
    results = results_of(folder)
    assert [model["learning"] for model in results["models"]] == [None, None]
    assert results["questions"] == []


def test_line_breaks_of_unicode_in_a_question_survive_to_the_report(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    row = {"question": "Where\u2028was\x85it?", "answers": ["Pellamire"]}
    (folder / "gold.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    run_plain(study_in(folder, tiny_model, "train.methods=[full]", "train.data=[naive]"), "report")
    assert [question["question"] for question in results_of(folder)["questions"]] == ["Where\u2028was\x85it?"]
