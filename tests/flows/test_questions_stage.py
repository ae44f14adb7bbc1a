"""Questions made of the documents, from the setting to the report, with the echo engine and a tiny random model.

The echo makes of every sentence a question that asks for its last word, as it does for the training data, too: so
those training texts must fall. (The filter lets them through because titles have the echo's own word, "complete".)
"""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from active_reading.eval.questions import read_questions
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, load_study
from active_reading.flows.steps import read_step

KETTLE = (
    "The Wexholm kettle boils nine cups of water in two minutes. It whistles a low and very sad tune. "
    "It was made of copper until the year 1954."
)
LAKE = "Lake Umbrosel freezes over in the month of November. The bell on its ground is of silver."
OWN = {"question": "Of what metal is the Wexholm kettle?", "answers": ["copper"], "document": "Complete kettle.txt"}
STUDY = """
corpus: {path: documents}
generate:
  engine: echo
  templates: [{template: questions}]
train:
  num_tokens: 200
  batch_tokens: 128
  max_length: 64
  methods: [full]
  data: [augmented]
evaluate: {make_questions: 2, few_shot: 1, max_new_tokens: 10, general_limit: 2, divergence_texts: 2}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "Complete kettle.txt").write_text(KETTLE, encoding="utf-8")
    (tmp_path / "documents" / "Complete lake.txt").write_text(LAKE, encoding="utf-8")
    (tmp_path / "gold.jsonl").write_text(json.dumps(OWN) + "\n", encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path


def study_in(folder: Path, model: Path, *overrides: str) -> Study:
    return load_study(str(folder / "study.yaml"), [f"model={model}", f"output={folder / 'out'}", *overrides])


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def no_engine(*_: object) -> None:
    raise AssertionError("the model was called")


def test_questions_lie_in_the_run_folder_as_a_file_of_gold_questions(project, tiny_model):
    folder = run_plain(study_in(project, tiny_model), "questions")
    assert not list((project / "out").glob("generate-*"))
    rows = lines_of(folder / "questions.jsonl")
    documents = pl.read_parquet(project / "out" / "ingest-*" / "documents.parquet")
    of_document = dict(documents.select("document_id", "text").iter_rows())
    assert [row["answers"] for row in rows] == [["minutes"], ["tune"], ["November"], ["silver"]]
    for row in rows:
        assert row["question"].startswith("Complete the fact: ")
        assert row["answers"][0] in of_document[row["document_id"]]
        assert row["kind"] == "made"
    assert {question.document for question in read_questions(folder / "questions.jsonl")} == set(of_document)
    figures = read_step(folder).summary
    assert (figures["asked"], figures["in_chunk"], figures["agreed"], figures["kept"]) == (5, 5, 5, 4)
    assert [row["reason"] for row in lines_of(folder / "dropped.jsonl")] == ["over_limit"]


def test_the_users_own_questions_go_first_and_are_asked_too(project, tiny_model):
    study = study_in(project, tiny_model, f"evaluate.questions={project / 'gold.jsonl'}")
    questions = read_questions(run_plain(study, "questions") / "questions.jsonl")
    assert [question.kind for question in questions] == [None, *["made"] * 4]
    assert (questions[0].question, questions[0].document) == (OWN["question"], OWN["document"])


def test_no_training_text_holds_a_made_question_and_the_documents_stay(project, tiny_model):
    dataset = run_plain(study_in(project, tiny_model), "export")
    made = lines_of(next((project / "out").glob("questions-*/questions.jsonl")))
    rows = pl.read_parquet(dataset / "data/text/*.parquet")
    assert rows.filter(template="chunk").height == 2
    pairs = rows.filter(template="questions")
    assert pairs["answer"].to_list() == ["1954"], "the one that no question was made of"
    assert not [row for row in made if any(row["question"] in text for text in rows["text"])]
    removed = read_step(next((project / "out").glob("decontaminate-*"))).summary["gold"]
    assert (removed["texts"], removed["removed"], removed["removed_chunks"]) == (4, 4, 0)
    again = yaml.safe_load((dataset / "study.yaml").read_text(encoding="utf-8"))
    assert again["evaluate"] == {"make_questions": 2, "max_new_tokens": 10}


def test_without_made_questions_nothing_falls_and_nothing_is_made(project, tiny_model):
    dataset = run_plain(study_in(project, tiny_model, "evaluate.make_questions=0"), "export")
    assert pl.read_parquet(dataset / "data/text/*.parquet").filter(template="questions").height == 5
    assert not list((project / "out").glob("*questions*"))
    assert "evaluate" not in yaml.safe_load((dataset / "study.yaml").read_text(encoding="utf-8"))


def test_every_model_is_asked_and_the_report_says_where_the_questions_come_from(
    project, tiny_model, monkeypatch, caplog
):
    study = study_in(project, tiny_model, f"evaluate.questions={project / 'gold.jsonl'}")
    page = run_plain(study, "report")
    results = json.loads((project / "out" / "results.json").read_text(encoding="utf-8"))
    for model in results["models"]:
        assert {kind: part["n"] for kind, part in model["learning"]["kinds"].items()} == {
            "of no kind": 1,
            "made": 4,
        }
    assert results["made_questions"]["kept"] == 4
    assert [stage["name"] for stage in results["stages"]][:4] == ["ingest", "chunk", "questions", "generate"]
    assert "Where the questions come from" in page.read_text(encoding="utf-8")
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    caplog.set_level("INFO", logger="active_reading")
    run_plain(study, "report")
    assert "questions: already done" in " ".join(caplog.messages)


def test_what_was_asked_is_not_asked_again_for_another_limit_or_own_file(project, tiny_model, monkeypatch):
    folder = run_plain(study_in(project, tiny_model), "questions")
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    changed = study_in(project, tiny_model, f"evaluate.questions={project / 'gold.jsonl'}")
    assert run_plain(changed, "questions") != folder
    before = read_step(folder).digest
    shutil.rmtree(folder)
    assert read_step(run_plain(study_in(project, tiny_model), "questions")).digest == before


def test_no_question_kept_is_an_error_that_names_the_cure(project, tiny_model):
    study = study_in(project, tiny_model, "evaluate.max_new_tokens=2")
    with pytest.raises(ValueError, match="no question that .* wrote can be used .*long_answer 5") as error:
        run_plain(study, "report")
    assert "name a larger model" in str(error.value)
    assert "evaluate.make_questions=0" in str(error.value)
    (dropped,) = (project / "out").glob("questions-*/dropped.jsonl")
    assert str(dropped) in str(error.value)
    assert len(lines_of(dropped)) == 5


def test_the_stage_by_its_name_needs_the_setting(project, tiny_model):
    with pytest.raises(ValueError, match=r"set evaluate\.make_questions"):
        run_plain(study_in(project, tiny_model, "evaluate.make_questions=0"), "questions")


def test_generic_text_that_holds_a_made_question_is_refused(project, tiny_model):
    folder = run_plain(study_in(project, tiny_model), "questions")
    asked = read_questions(folder / "questions.jsonl")[0].question
    (project / "generic.jsonl").write_text(json.dumps({"text": f"Now: {asked}"}) + "\n", encoding="utf-8")
    words = (f"train.background={project / 'generic.jsonl'}", "train.memory.background_texts=1")
    with pytest.raises(ValueError, match=r"generic.jsonl: 1 of 1 texts hold .* of gold"):
        run_plain(study_in(project, tiny_model, *words), "generate")
    assert run_plain(study_in(project, tiny_model, *words, "decontaminate=false"), "questions")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluate.make_questions=-1", "evaluate.make_questions=-1: input should be greater than or equal to 0"),
        ("evaluate.make_question=2", "did you mean 'make_questions'"),
    ],
)
def test_a_wrong_setting_is_refused(project, tiny_model, setting, message):
    with pytest.raises(ValueError, match=message):
        study_in(project, tiny_model, setting)
