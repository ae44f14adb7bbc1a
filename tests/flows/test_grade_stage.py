"""Grading from the setting to the report, with the echo engine and tiny random models.

The echo's P(yes) is the share of an answer's words that stand in the accepted ones. Not covered: a real grader.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from active_reading.augment.engine import Completion, EchoEngine
from active_reading.augment.ledger import Ledger
from active_reading.flows import asking
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, load_study
from active_reading.flows.steps import MANIFEST, read_step

KETTLE = "The Wexholm kettle boils nine cups of water in two minutes. It was made of copper until the year 1954."
GOLD = [
    {"question": "Of what is the kettle?", "answers": ["copper", "pure copper"], "kind": "seen"},
    {"question": "How many cups does it boil?", "answers": ["nine"], "kind": "other"},
    {"question": "Until when was it made?", "answers": ["1954", "year 1954"], "kind": "seen"},
]
STUDY = """
corpus: {path: documents}
generate: {engine: echo, templates: [{template: paraphrase}]}
train: {num_tokens: 200, batch_tokens: 128, max_length: 64, methods: [full], data: [naive]}
evaluate:
  {questions: gold.jsonl, few_shot: 1, max_new_tokens: 10, general_limit: 2, divergence_texts: 2, grade: grader}
"""


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A project in which the whole job has run once, ungraded; never changed by a test."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "documents").mkdir()
    (folder / "documents" / "kettle.txt").write_text(KETTLE, encoding="utf-8")
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    shutil.copytree(tiny_model, folder / "grader")
    run_plain(study_in(folder, tiny_model, "evaluate.grade=''"), "report")
    return folder


@pytest.fixture
def project(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "moved"))


def study_in(folder: Path, model: Path, *overrides: str) -> Study:
    return load_study(str(folder / "study.yaml"), [f"model={model}", f"output={folder / 'out'}", *overrides])


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def no_engine(*_: object) -> None:
    raise AssertionError("the model was called")


def test_ungraded_runs_say_nothing_of_grades(finished):
    results = results_of(finished)
    assert results["grading"] is None
    assert not any("graded" in model["learning"] for model in results["models"])
    assert not list((finished / "out").glob("grade*"))
    for name in ("summary.md", "index.html"):
        assert "graded" not in (finished / "out" / name).read_text(encoding="utf-8").lower()


def test_failed_requests_leave_the_grades_unfinished_and_the_next_run_asks_them_again(
    project, tiny_model, monkeypatch, caplog
):
    class Failing(EchoEngine):
        def poll(self) -> list[Completion]:
            return [replace(done, text="", finish_reason="error", error="no room") for done in super().poll()]

    with monkeypatch.context() as broken:
        broken.setattr("active_reading.augment.generate.make_engine", lambda *_, **__: Failing())
        run_plain(study_in(project, tiny_model), "grade")
    assert not list((project / "out").glob(f"grade-*/{MANIFEST}"))
    assert "requests failed; running again asks them again" in caplog.text
    caplog.clear()
    run_plain(study_in(project, tiny_model), "grade")
    (manifest,) = (project / "out").glob(f"grade-*/{MANIFEST}")
    assert json.loads(manifest.read_text())["summary"]["failed"] == 0
    assert "requests failed" not in caplog.text


def test_every_model_has_a_grade_beside_its_scores_in_numbers_summary_and_page(project, tiny_model):
    page = run_plain(study_in(project, tiny_model), "report").read_text(encoding="utf-8")
    results = results_of(project)
    grades = lines_of(next((project / "out").glob("grade-*/grades.jsonl")))
    of_answer = {(row["question"], row["answer"]): row["grade"] for row in grades}
    assert len(results["models"]) == 2
    for model in results["models"]:
        samples = lines_of(project / "out" / model["evaluation"] / "samples.jsonl")
        mean = sum(of_answer[row["question"], row["answer"]] for row in samples) / 3
        assert model["learning"]["graded"] == pytest.approx(mean)
        assert model["learning"]["ungraded"] == 0
        assert all("graded_se" in block for block in model["learning"]["kinds"].values())
    assert results["grading"]["grader"] == "grader"
    assert (results["grading"]["right"]["n"], results["grading"]["wrong"]["n"]) == (2, 3)
    assert "models" not in results["grading"]
    assert results["stages"][-1]["name"] == "grade"
    summary = (project / "out" / "summary.md").read_text(encoding="utf-8")
    assert "| F1 | EM | graded | answer NLL |" in summary
    assert "Graded by grader, " in summary
    assert "Graded by grader, " in page
    kinds = page[page.index('id="kinds"') :]
    assert kinds.count("<th>F1</th><th>Graded</th><th>Answer NLL</th>") == 2
    assert '<th class="group" colspan="3">seen (2)</th>' in kinds
    table = page[page.index('id="models"') : page.index('id="grading"')]
    assert "<th>Exact match</th><th>Graded</th><th>Answer NLL</th>" in table


def test_answers_in_the_words_of_the_accepted_ones_are_right(project, tiny_model):
    """As if the trained model had answered: half or more of the words of the first and last answer are accepted."""
    (samples,) = (project / "out").glob("evaluate-naive-full-*/samples.jsonl")
    rows = [
        {**row, "answer": answer, "exact_match": 0.0}
        for row, answer in zip(lines_of(samples), ("of copper", "eight", "1954"), strict=True)
    ]
    steps = {"base": read_step(next((project / "out").glob("evaluate-base-*")))}
    steps["naive-full"] = read_step(samples.parent)
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    step = asking.grade(study_in(project, tiny_model), steps)
    given = {row["answer"]: (row["grade"], row["p_yes"]) for row in lines_of(step.folder / "grades.jsonl")}
    assert given["of copper"] == (1.0, 0.5)
    assert given["eight"] == (0.0, 0.0)
    assert given["1954"] == (1.0, None)
    assert step.summary["models"]["naive-full"]["graded"] == pytest.approx(2 / 3)
    tried = lines_of(step.folder / "tried.jsonl")
    assert [row["answer"] for row in tried if row["known"]] == ["pure copper", "year 1954"]
    assert [row["answer"] for row in tried if not row["known"]] == ["nine", "copper", "copper"]


def test_grading_asks_no_model_to_answer_again_and_a_second_run_asks_nobody(
    project, tiny_model, monkeypatch, caplog
):
    monkeypatch.setattr("active_reading.eval.evaluate.evaluate_model", no_engine)
    monkeypatch.setattr("active_reading.train.trainer.train_model", no_engine)
    folder = run_plain(study_in(project, tiny_model), "grade")
    first = read_step(folder)
    assert Ledger(project / "out" / "grades").read().height >= 5, "the trials at least"
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    caplog.set_level("INFO", logger="active_reading")
    assert run_plain(study_in(project, tiny_model), "grade") == folder
    assert "grade: already done" in " ".join(caplog.messages)
    shutil.rmtree(folder)
    assert read_step(run_plain(study_in(project, tiny_model), "grade")).digest == first.digest


def test_another_grader_is_asked_anew_and_a_weak_one_is_doubted(project, tiny_model, caplog):
    run_plain(study_in(project, tiny_model), "grade")
    run_plain(study_in(project, tiny_model, f"evaluate.grade={tiny_model}"), "report")
    assert len(list((project / "out").glob("grade-*"))) == 2
    rows = Ledger(project / "out" / "grades").read()
    assert set(rows["model"]) == {"grader", "tiny"}
    assert set(rows["model_revision"]) == {"echo"}, "no answers of the weights that the name stands for"
    assert results_of(project)["grading"]["grader"] == "tiny"
    assert results_of(project)["grading"]["right"]["told"] == 1.0, "half of the words of each are accepted"
    assert "hardly tells" not in caplog.text


def test_a_grader_that_knows_no_right_answer_is_doubted(project, tiny_model, caplog):
    gold = [{**row, "answers": [row["answers"][0], "something else"]} for row in GOLD]
    (project / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold), encoding="utf-8")
    page = run_plain(study_in(project, tiny_model), "report").read_text(encoding="utf-8")
    assert "grade: the grader hardly tells right answers from wrong ones: name a larger model" in caplog.text
    assert "Do not rely on the grades" in page


def test_the_stage_by_its_name_needs_the_setting_before_anything_runs(project, tiny_model):
    study = study_in(project, tiny_model, "evaluate.grade=''", f"output={project / 'new'}")
    with pytest.raises(ValueError, match=r"set evaluate\.grade"):
        run_plain(study, "grade")
    assert not (project / "new").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.questions=null"], "evaluate.grade=.*grader: there are no gold questions"),
        (["evaluate.grade=./nowhere"], "model './nowhere' does not exist"),
        (["evaluate.graded=x"], "unknown key 'evaluate.graded', did you mean 'grade'"),
        (["evaluate.grade=3"], "evaluate.grade=3: input should be a valid string"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(project, tiny_model, overrides, message):
    with pytest.raises(ValueError, match=message):
        run_plain(study_in(project, tiny_model, f"output={project / 'new'}", *overrides), "ingest")
    assert not (project / "new").exists()


def test_a_grader_at_an_endpoint_is_known_by_its_name_there(project, tiny_model):
    endpoint = "generate.endpoint={url: http://localhost:1/v1, model: writer, revision: may}"
    study = study_in(project, tiny_model, "generate.engine=endpoint", endpoint, "evaluate.grade=org/Large")
    asked = asking.asked_model(study, study.evaluate.grade)
    assert asked.settings.endpoint.model == "org/Large"
    assert (asked.identity.name, asked.identity.revision) == ("org/Large", "endpoint may")
    assert asking.asked_model(study, "").identity.name == "writer"
    assert study.generate.endpoint.model == "writer"
