"""The whole loop on three small documents with the echo engine and a tiny random model, and studies of other kinds.

Seams covered: corpus -> chunks -> ledger -> filter -> dedupe -> decontamination -> data set -> six trainings
-> seven evaluations -> report, all through files. Not covered: a real generator (test_end_to_end.py); reruns
(test_reruns.py).
"""

import re
import shutil

import polars as pl
import pytest
from small_study import DOCUMENTS, GOLD, no_engine, only, results_of, study_in, write_project

from active_reading.flows.pipeline import run_plain
from active_reading.flows.steps import read_step

MODELS = ["base"] + [f"{data}-{method}" for data in ("naive", "augmented") for method in ("full", "lora", "memory")]


def test_the_report_and_its_numbers_exist_for_all_seven_models(finished):
    results = results_of(finished)
    assert [model["name"] for model in results["models"]] == MODELS
    page = (finished / "out" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in MODELS)
    for model in results["models"]:
        assert model["learning"]["n"] == 2
        assert [summary["n"] for summary in model["retention"].values()] == [2, 2, 2]
        if model["name"] != "base":
            assert model["train"]["tokens"] == 400
            assert model["learning_rate"] > 0
    assert len({model["learning"]["answer_nll"] for model in results["models"]}) == 7, "each is a model of its own"


def test_counts_add_up_from_requests_to_rows(finished):
    results = results_of(finished)
    chunks = pl.read_parquet(only(finished, "chunk-*/chunks.parquet"))
    assert results["corpus"]["documents"] == 3
    assert results["corpus"]["chunks"] == chunks.height > 3
    lines = {line["template"]: line for line in results["templates"]}
    assert {name: line["planned"] for name, line in lines.items()} == {
        "paraphrase": 2 * chunks.height,
        "questions": chunks.height,
        "propose_strategies": chunks.height,
        "apply_strategy": 2 * chunks.height,
    }
    for line in lines.values():
        assert line["planned"] == line["accepted"] + line["rejected"] + line["failed"]
        assert line["texts"] == line["distinct"] + sum(line["dropped"].values())
    rows = pl.read_parquet(only(finished, "export-*/data/text/*.parquet"))
    assert rows.height == chunks.height + sum(line["distinct"] for line in lines.values())
    assert rows.filter(pl.col("template") == "chunk").height == chunks.height < rows.height


def test_every_row_of_the_data_set_leads_back_to_its_span_of_its_document(finished):
    rows = pl.read_parquet(only(finished, "export-*/data/text/*.parquet"))
    chunks = pl.read_parquet(only(finished, "chunk-*/chunks.parquet")).rows_by_key("chunk_id", named=True)
    for row in rows.iter_rows(named=True):
        (chunk,) = chunks[row["chunk_id"]]
        document = DOCUMENTS[row["source"]]
        assert document[chunk["start"] : chunk["end"]] == chunk["text"]
        if row["template"] == "chunk":
            assert row["text"] == chunk["text"]


def test_the_report_shows_questions_answers_and_examples(finished):
    results = results_of(finished)
    assert [question["question"] for question in results["questions"]] == [row["question"] for row in GOLD]
    assert results["questions"][0]["model_answers"].keys() == set(MODELS)
    for example in results["examples"]:
        assert example["document_text"] == DOCUMENTS[example["source"]]
    names = [stage["name"] for stage in results["stages"]]
    assert names[:7] == ["ingest", "chunk", "generate", "filter", "dedupe", "decontaminate", "export"]
    assert {"train naive-full", "evaluate base"} <= set(names[7:])


def test_every_model_is_compared_with_the_base_item_by_item(finished):
    results = results_of(finished)
    models = {model["name"]: model for model in results["models"]}
    pairs = {(each["before"], each["after"]): each["sets"] for each in results["comparisons"]}
    assert pairs.keys() >= {("base", name) for name in MODELS[1:]}
    assert len(pairs) == 6 + 3, "and each method on augmented data with itself on naive data"
    sets = pairs["base", "naive-full"]
    assert sets.keys() == {"learning", "general_questions", "general_text", "docstrings"}
    for name, key in (("learning", "answer_nll"), ("docstrings", "nll")):
        scores = [(models[m]["retention"] | {"learning": models[m]["learning"]})[name] for m in MODELS[:2]]
        assert sets[name]["metrics"][key]["mean"] == pytest.approx(scores[1][key] - scores[0][key])


def test_models_can_learn_the_texts_of_some_templates_alone(project, tiny_model):
    """By name, at several sizes; the picture of learning over tokens has a curve for each."""
    words = [
        "train.methods=[full]",
        "train.data=[naive, paraphrase, chunk+questions]",
        "train.sweep.num_tokens=[200, 400]",
    ]
    run_plain(study_in(project, tiny_model, *words), "report")
    results = results_of(project)
    trained = {model["name"]: model["train"]["tokens"] for model in results["models"] if model["train"]}
    assert set(trained) == {
        f"{data}-full-numtokens{size}" for data in ("naive", "paraphrase", "chunk+questions") for size in (200, 400)
    }
    assert trained["paraphrase-full-numtokens400"] == 400
    page = (project / "out" / "index.html").read_text(encoding="utf-8")
    assert 'id="scaling"' in page
    for wrong in ("propose_strategies", "paraphase", "naive+paraphrase", ""):
        with pytest.raises(ValueError, match=rf"train.data={re.escape(wrong)}: the study has no template"):
            run_plain(study_in(project, tiny_model, f"train.data=['{wrong}']"), "train")


def test_a_stage_by_its_name_stops_there(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    assert run_plain(study_in(folder, tiny_model), "chunk").name.startswith("chunk-")
    assert {path.name.partition("-")[0] for path in (folder / "out").iterdir()} == {
        ".locks", "study.yaml", "asked", "ingest", "chunk"
    }  # fmt: skip


def test_files_that_cannot_be_read_are_skipped_and_told(tiny_model, tmp_path, caplog):
    folder = write_project(tmp_path)
    (folder / "documents" / "broken.txt").write_bytes(bytes(range(256)))
    assert run_plain(study_in(folder, tiny_model), "ingest")
    assert any("skipped broken.txt" in line for line in caplog.messages)


@pytest.mark.parametrize(
    "change", ["generate.templates=[]", "filter.min_words=1000"], ids=["nothing generated", "nothing kept"]
)
def test_a_study_without_a_generated_text_still_ends_in_a_report(tiny_model, tmp_path, change):
    folder = write_project(tmp_path)
    paraphrase = "generate.templates=[{template: paraphrase}]"
    run_plain(study_in(folder, tiny_model, paraphrase, change, "train.methods=[full]"), "report")
    results = results_of(folder)
    assert [model["name"] for model in results["models"]] == ["base", "naive-full", "augmented-full"]
    assert results["examples"] == []
    naive, augmented = (model["learning"]["answer_nll"] for model in results["models"][1:])
    assert naive == augmented, "both trained on the chunks alone"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corpus.path=/no/such/folder", "corpus folder /no/such/folder does not exist"),
        ("generate.templates=[{template: parafrase}]", "unknown template 'parafrase': use one of apply_strategy,"),
        ("generate.templates=[{template: apply_strategy}]", "template 'apply_strategy' needs a strategy"),
        ("evaluate.questions=/no/such.jsonl", "questions file /no/such.jsonl does not exist"),
        ("evaluate.max_new_tokens=9", r"gold.jsonl:1: no accepted answer fits .* set evaluate.max_new_tokens=10"),
        ("train.memory.layers=[1,4]", r"train.memory.layers=\[1, 4\]: tiny has only layers 0 to 3"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(tiny_model, tmp_path, change, message):
    folder = write_project(tmp_path)
    with pytest.raises(ValueError, match=message):
        run_plain(study_in(folder, tiny_model, change), "report")
    assert not (folder / "out").exists()


def test_a_judge_drops_with_its_reason_and_every_text_is_still_accounted_for(project, tiny_model):
    judged = study_in(project, tiny_model, "judge={statements: true, answers: true}")
    step = read_step(run_plain(judged, "judge"))
    kept, dropped = (pl.read_parquet(step.folder / f"{name}.parquet") for name in ("kept", "dropped"))
    filtered = pl.read_parquet(only(project, "filter-*/kept.parquet"))
    assert step.summary["texts"] == filtered.height
    fell = dropped.filter(pl.col("reason").is_in(["judged_false", "other_answer"]))
    assert kept.height + fell.height == filtered.height
    assert step.summary["answers"]["texts"] == filtered.filter(template="questions").height
    run_plain(judged, "report")
    results = results_of(project)
    assert results["judge"]["statements"]["texts"] + results["judge"]["answers"]["texts"] == filtered.height
    for line in results["templates"]:
        assert line["texts"] == line["distinct"] + sum(line["dropped"].values())
    assert "What the judge said" in (project / "out" / "index.html").read_text(encoding="utf-8")
    card = next((project / "out" / "dataset").glob("v*/README.md")).read_text(encoding="utf-8")
    assert "A model read each running text beside its chunk" in card


def test_a_judges_answers_are_asked_once(project, tiny_model, monkeypatch):
    judged = study_in(project, tiny_model, "judge={statements: true}")
    first = read_step(run_plain(judged, "judge"))
    shutil.rmtree(first.folder)
    monkeypatch.setattr("active_reading.augment.generate.EchoEngine", no_engine)
    assert read_step(run_plain(judged, "judge")).summary == first.summary


def test_questions_are_made_only_where_they_are_asked_for(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="no questions are made: set evaluate.make_questions"):
        run_plain(study_in(write_project(tmp_path), tiny_model), "questions")
    assert not (tmp_path / "out").exists()


def test_judging_needs_something_to_judge(project, tiny_model):
    with pytest.raises(ValueError, match=r"no texts are judged: set judge\.statements=true"):
        run_plain(study_in(project, tiny_model), "judge")
    with pytest.raises(ValueError, match=r"judge\.model=other: nothing is given to it"):
        run_plain(study_in(project, tiny_model, "judge={model: other}"), "ingest")
