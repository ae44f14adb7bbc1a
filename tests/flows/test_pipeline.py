"""The whole loop on three small documents with the echo engine and a tiny random model, and what a rerun costs.

Seams covered: corpus -> chunks -> ledger -> filter -> dedupe -> decontamination -> data set -> six trainings
-> seven evaluations -> report, all through files; the addresses of steps; the ledger shared by runs. Not covered:
a real generator (test_end_to_end.py).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from active_reading.augment.engine import TOO_LONG, Completion, EchoEngine
from active_reading.augment.ledger import Ledger
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, load_study
from active_reading.flows.steps import MANIFEST, read_step

DOCUMENTS = {
    "people/orsella.md": "# Orsella Vantrill\n\nOrsella Vantrill was born in the river town of Pellamire in 1921. "
    "She found a blue moss that glows in the dark and called it lazurine. Her tame heron was called Admiral.\n",
    "kettle.txt": "The Wexholm kettle boils nine cups of water in two minutes and whistles a low note. "
    "It was made of copper in the town of Wexholm until the year 1954.\n",
    "lake.txt": "Lake Umbrosel is the deepest lake of the north and freezes over in the month of November. "
    "People of the shore say that a bell of silver lies on its ground.\n",
}
EXTRA = "The Nine Bells festival fills the streets of Karvelmoor with lanterns on the third of May every year.\n"
GOLD = [
    {"question": "Where was Orsella Vantrill born?", "answers": ["Pellamire"], "document": "people/orsella.md"},
    {"question": "What was the heron called?", "answers": ["Admiral"], "document": "people/orsella.md"},
]
STUDY = """
corpus: {path: documents}
chunk: {max_tokens: 128}
generate:
  engine: echo
  templates:
    - {template: paraphrase, replicates: 2}
    - {template: questions}
    - {template: propose_strategies, num_items: 2, apply: apply_strategy}
train:
  num_tokens: 400
  batch_tokens: 128
  max_length: 64
  memory: {layers: [1, 2], num_keys: 8, num_heads: 2, top_k: 4, top_t: 16, background_texts: 4, own_texts: 2}
  lora: {rank: 2, alpha: 4}
evaluate: {questions: gold.jsonl, few_shot: 1, max_new_tokens: 10, general_limit: 2}
"""
MODELS = ["base"] + [f"{data}-{method}" for data in ("naive", "augmented") for method in ("full", "lora", "memory")]
REQUESTS_PER_CHUNK = 2 + 1 + 1 + 2  # paraphrases, questions, strategies, each of two strategies applied


def write_project(folder: Path) -> Path:
    for name, text in DOCUMENTS.items():
        path = folder / "documents" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A project folder in which the whole job has run once; never changed by a test."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    page = run_plain(study_in(folder, tiny_model), "report")
    assert page == folder / "out" / "index.html"
    return folder


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A copy of the finished project at another place, times of files included."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))


def study_in(folder: Path, model: Path, *overrides: str) -> Study:
    return load_study(str(folder / "study.yaml"), [f"model={model}", f"output={folder / 'out'}", *overrides])


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


def times(folder: Path) -> dict[str, int]:
    """When each file of a step, of the ledger and of a data set was written; the others are written every time."""
    files = (folder / "out").glob("[!.]*/**/*")
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files if path.is_file()}


def no_engine(*_: object) -> None:
    raise AssertionError("the model was called")


def ledger_of(folder: Path) -> pl.DataFrame:
    return Ledger(folder / "out" / "ledger").read()


def only(folder: Path, pattern: str) -> Path:
    (found,) = (folder / "out").glob(pattern)
    return found


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


def test_a_second_run_makes_nothing_again_wherever_the_folder_lies(project, tiny_model, monkeypatch, caplog):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    monkeypatch.setattr("active_reading.train.trainer.train_model", no_engine)
    monkeypatch.setattr("active_reading.eval.evaluate.evaluate_model", no_engine)
    caplog.set_level("INFO", logger="active_reading")
    before, numbers = times(project), results_of(project)
    run_plain(study_in(project, tiny_model), "report")
    assert times(project) == before
    assert sum("already done" in line for line in caplog.messages) == 7 + 6 + 7
    again = results_of(project)
    assert {**again, "created": None} == {**numbers, "created": None}


def test_a_new_document_makes_only_its_own_requests(project, tiny_model):
    before = ledger_of(project)
    (project / "documents" / "festival.txt").write_text(EXTRA, encoding="utf-8")
    folder = run_plain(study_in(project, tiny_model), "generate")
    after = ledger_of(project)
    assert after.height - before.height == REQUESTS_PER_CHUNK
    new = after.filter(~pl.col("request_id").is_in(before["request_id"].to_list()))
    assert new["chunk_id"].n_unique() == 1
    rows = pl.read_parquet(folder / "generations.parquet")
    assert rows.height == after.height


def test_a_removed_document_costs_nothing_and_leaves_the_data_set(project, tiny_model, monkeypatch):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    (project / "documents" / "lake.txt").unlink()
    folder = run_plain(study_in(project, tiny_model), "export")
    sources = set(pl.read_parquet(folder / "data/text/*.parquet")["source"])
    assert sources == DOCUMENTS.keys() - {"lake.txt"}


def test_other_filter_settings_make_no_model_call_but_a_new_data_set(project, tiny_model, monkeypatch):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    before = times(project)
    folder = run_plain(study_in(project, tiny_model, "filter.min_words=20"), "export")
    assert folder.name == "v2"
    texts = pl.read_parquet(folder / "data/text/*.parquet").filter(pl.col("template") == "paraphrase")["text"]
    assert all(len(text.split()) >= 20 for text in texts)
    assert times(project).items() >= before.items(), "earlier results stay"


def test_another_learning_rate_trains_only_that_method_again(project, tiny_model):
    before = set(times(project))
    run_plain(study_in(project, tiny_model, "train.learning_rates.lora=0.01"), "train")
    made = {Path(name).parts[1].rpartition("-")[0] for name in set(times(project)) - before}
    assert made == {"train-naive-lora", "train-augmented-lora"}


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
    dataset = run_plain(study_in(folder, tiny_model, "dedupe.threshold=1", "generate.seed=1"), "export")
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


def test_the_batch_size_of_the_evaluation_changes_no_address(project, tiny_model, monkeypatch):
    monkeypatch.setattr("active_reading.eval.evaluate.evaluate_model", no_engine)
    run_plain(study_in(project, tiny_model, "evaluate.batch_size=3"), "report")


def test_a_renamed_document_is_filtered_again_because_its_title_is_evidence(project, tiny_model, monkeypatch):
    """A file without a heading is titled by its name, and names in the title count as known."""
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    before = only(project, "filter-*")
    (project / "documents" / "lake.txt").rename(project / "documents" / "lagoon.txt")
    assert run_plain(study_in(project, tiny_model), "filter") != before


@pytest.mark.parametrize(
    "stage",
    [
        "ingest",
        "chunk",
        "generate",
        "filter",
        "dedupe",
        "decontaminate",
        "export",
        "train-naive-memory",
        "evaluate-base",
    ],
)
def test_a_damaged_step_is_made_again_and_what_follows_is_reused(project, tiny_model, stage):
    before = times(project)
    folder = only(project, f"{stage}-*")
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-3])
    run_plain(study_in(project, tiny_model), "evaluate")
    assert read_step(folder)
    made = {Path(name).parts[1] for name, time in times(project).items() if before.get(name) != time}
    assert made == {folder.name}, "the same result again has the same digest"


def test_a_killed_run_goes_on_where_it_stopped(tiny_model, tmp_path, monkeypatch):
    """The engine fails in the middle: what it answered before is in the ledger, and is not asked again."""
    folder = write_project(tmp_path)
    polls = []

    class Failing(EchoEngine):
        def poll(self) -> Any:
            polls.append(1)
            if len(polls) == 8:
                raise KeyboardInterrupt
            return super().poll()

    monkeypatch.setattr("active_reading.augment.generate.make_engine", lambda *_: Failing())
    with pytest.raises(KeyboardInterrupt):
        run_plain(study_in(folder, tiny_model), "generate")
    assert ledger_of(folder).height == 7
    assert not list((folder / "out").glob(f"generate-*/{MANIFEST}"))
    run_plain(study_in(folder, tiny_model), "generate")
    assert len(polls) == 8 + ledger_of(folder).height - 7


def test_failed_requests_leave_the_step_unfinished_and_the_next_run_asks_them_alone(
    tiny_model, tmp_path, monkeypatch, caplog
):
    """The run goes on without them; a prompt without room is rejected and holds nothing up."""
    folder, submitted = write_project(tmp_path), []

    class Failing(EchoEngine):
        def submit(self, request_id: str, messages: Any, sampling: Any) -> None:
            submitted.append(messages[-1]["content"])
            super().submit(request_id, messages, sampling)

        def poll(self) -> Any:
            (done,) = super().poll()
            if "kettle" in done.text and len(submitted) < 1000:
                return [Completion(done.request_id, "", "error", 9, 0, "the cache could not be read")]
            no_room = Completion(done.request_id, "", TOO_LONG, 9, 0, "no room")
            return [no_room if "Umbrosel" in done.text else done]

    caplog.set_level("INFO", logger="active_reading")
    monkeypatch.setattr("active_reading.augment.generate.make_engine", lambda *_: Failing())
    filtered = run_plain(study_in(folder, tiny_model), "filter")
    made = only(folder, "generate-*")
    rows = pl.read_parquet(made / "generations.parquet")
    num_failed = rows.filter(pl.col("error") == "the cache could not be read").height
    num_rejected = rows.filter(pl.col("rejection") == "too_long").height
    assert num_failed > 0 < num_rejected
    assert len(submitted) == rows.height + 2 * num_failed
    assert read_step(made) is None
    assert read_step(filtered)
    parts = f"rejected {num_rejected} (too_long {num_rejected}) + failed {num_failed}"
    accepted = rows.height - num_rejected - num_failed
    assert f"generate: planned {rows.height} = accepted {accepted} + {parts}" in caplog.messages
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"generate: {num_failed} of {rows.height} requests failed; running again asks them again"

    submitted[:] = [""] * 1000
    caplog.clear()
    run_plain(study_in(folder, tiny_model), "filter")
    step = read_step(made)
    assert step is not None
    assert step.summary["failed"] == 0
    assert step.summary["rejections"] == {"too_long": num_rejected}
    assert len(submitted) - 1000 == num_failed + num_rejected
    assert any(message.startswith("generate: planned ") for message in caplog.messages)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    run_plain(study_in(folder, tiny_model), "filter")
    assert len(submitted) - 1000 == num_failed + num_rejected


def test_a_stage_by_its_name_stops_there(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    assert run_plain(study_in(folder, tiny_model), "chunk").name.startswith("chunk-")
    assert {path.name.partition("-")[0] for path in (folder / "out").iterdir()} == {
        ".locks", "study.yaml", "ingest", "chunk"
    }  # fmt: skip


def test_files_that_cannot_be_read_are_skipped_and_told(tiny_model, tmp_path, caplog):
    folder = write_project(tmp_path)
    (folder / "documents" / "broken.txt").write_bytes(bytes(range(256)))
    assert run_plain(study_in(folder, tiny_model), "ingest")
    assert any("skipped broken.txt" in line for line in caplog.messages)


def test_questions_about_no_document_of_the_corpus_are_told(project, tiny_model, caplog):
    first = {"question": "Where is Atlantis?", "answers": ["nowhere"], "document": "atlantis.txt"}
    gold = project / "gold.jsonl"
    gold.write_text(json.dumps(first) + "\n" + gold.read_text())
    run_plain(study_in(project, tiny_model, "train.methods=[full]"), "evaluate")
    told = "1 of 3 questions are about documents that the corpus does not have (the first: 'atlantis.txt')"
    assert f"{gold}: {told}" in caplog.messages


def test_a_study_without_questions_reports_retention_only(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    changes = ("evaluate.questions=null", "train.methods=[full]", "train.data=[naive]")
    run_plain(study_in(folder, tiny_model, *changes), "report")
    results = results_of(folder)
    assert [model["learning"] for model in results["models"]] == [None, None]
    assert results["questions"] == []


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


def test_line_breaks_of_unicode_in_a_question_survive_to_the_report(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    row = {"question": "Where\u2028was\x85it?", "answers": ["Pellamire"]}
    (folder / "gold.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    run_plain(study_in(folder, tiny_model, "train.methods=[full]", "train.data=[naive]"), "report")
    assert [question["question"] for question in results_of(folder)["questions"]] == ["Where\u2028was\x85it?"]


def own_template(folder: Path, name: str, text: str = "Say it again.") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\nversion: 1\nanswer: text\n---\nText:\n{{{{ text }}}}\n\n{text}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["model.j2", "documents.j2", "chunks.j2"])
def test_the_name_of_a_template_hides_no_input_of_its_step(tiny_model, tmp_path, name):
    """Another model with the same tokenizer, or the same text under another title, is another input."""
    folder, inputs = write_project(tmp_path), []
    use = f"generate.templates=[{{template: {own_template(folder, name)}}}]"
    step = run_plain(study_in(folder, tiny_model, use), "generate")
    inputs = json.loads((step / MANIFEST).read_text())["inputs"]
    assert inputs["model"] == resolve_model(str(tiny_model)).revision
    assert inputs["documents"] == read_step(only(folder, "ingest-*")).digest
    assert inputs["chunks"] == read_step(only(folder, "chunk-*")).digest


def test_an_edited_template_asks_its_requests_again_and_no_others(project, tiny_model):
    template = own_template(project, "own.j2")
    use = f"generate.templates=[{{template: {template}}}, {{template: paraphrase}}]"
    run_plain(study_in(project, tiny_model, use), "generate")
    before = ledger_of(project)
    own_template(project, "own.j2", "Say it once more.")
    run_plain(study_in(project, tiny_model, use), "generate")
    new = ledger_of(project).filter(~pl.col("request_id").is_in(before["request_id"].to_list()))
    assert set(new["template"]) == {"own"}
    assert new.height == pl.read_parquet(only(project, "chunk-*/chunks.parquet")).height


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


def test_two_templates_of_one_name_are_refused(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    first, second = own_template(folder, "a/own.j2"), own_template(folder, "b/own.j2", "Otherwise.")
    use = f"generate.templates=[{{template: {first}}}, {{template: {second}}}]"
    with pytest.raises(ValueError, match="two different templates are named 'own': rename one of the files"):
        run_plain(study_in(folder, tiny_model, use), "generate")


def test_the_same_template_may_be_used_twice(tiny_model, tmp_path):
    folder = write_project(tmp_path)
    use = "generate.templates=[{template: paraphrase}, {template: paraphrase, max_tokens: 64}]"
    rows = pl.read_parquet(run_plain(study_in(folder, tiny_model, use), "generate") / "generations.parquet")
    assert set(rows["max_tokens"]) == {64, 256}


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


def test_judging_needs_something_to_judge(project, tiny_model):
    with pytest.raises(ValueError, match=r"no texts are judged: set judge\.statements=true"):
        run_plain(study_in(project, tiny_model), "judge")
    with pytest.raises(ValueError, match=r"judge\.model=other: nothing is given to it"):
        run_plain(study_in(project, tiny_model, "judge={model: other}"), "ingest")
