"""What a rerun costs: nothing that is there already, after any change, damage, kill or failure.

Seams covered: the addresses of steps; the ledger shared by runs.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_study import DOCUMENTS, no_engine, only, results_of, study_in, times, write_project

from active_reading.augment.engine import TOO_LONG, Completion, EchoEngine
from active_reading.augment.ledger import Ledger
from active_reading.flows import stages
from active_reading.flows.learning import SHARING
from active_reading.flows.models import resolve_model
from active_reading.flows.pipeline import run_plain
from active_reading.flows.steps import MANIFEST, read_step

EXTRA = "The Nine Bells festival fills the streets of Karvelmoor with lanterns on the third of May every year.\n"
REQUESTS_PER_CHUNK = 2 + 1 + 1 + 2  # paraphrases, questions, strategies, each of two strategies applied


def ledger_of(folder: Path) -> pl.DataFrame:
    return Ledger(folder / "out" / "ledger").read()


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


def test_the_batch_size_of_the_evaluation_changes_no_address(project, tiny_model, monkeypatch):
    monkeypatch.setattr("active_reading.eval.evaluate.evaluate_model", no_engine)
    run_plain(study_in(project, tiny_model, "evaluate.batch_size=3"), "report")


def test_a_renamed_document_is_filtered_again_because_its_title_is_evidence(project, tiny_model, monkeypatch):
    """A file without a heading is titled by its name, and names in the title count as known."""
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    before = only(project, "filter-*")
    (project / "documents" / "lake.txt").rename(project / "documents" / "lagoon.txt")
    assert run_plain(study_in(project, tiny_model), "filter") != before


def test_a_renamed_document_trains_no_model_again_and_is_evaluated_under_its_new_name(
    project, tiny_model, monkeypatch
):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    monkeypatch.setattr("active_reading.train.trainer.train_model", no_engine)
    titled = "# Orsella Vantrill\n\n"  # so that its name is in no prompt
    assert DOCUMENTS["people/orsella.md"].startswith(titled)
    (project / "documents" / "people" / "orsella.md").rename(project / "documents" / "people" / "vantrill.md")
    before = set(project.glob(f"out/evaluate-*-memory*/{SHARING}"))
    run_plain(study_in(project, tiny_model), "report")
    made = set(project.glob(f"out/evaluate-*-memory*/{SHARING}")) - before
    assert len(made) == 2
    assert all("people/vantrill.md" in json.loads(path.read_text())["documents"] for path in made)


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


def test_questions_that_change_while_a_run_goes_on_are_asked_as_they_were(tiny_model, tmp_path, monkeypatch):
    folder = write_project(tmp_path)
    as_it_was = stages.chunk

    def chunk(*given: Any) -> Any:
        (folder / "gold.jsonl").write_text('{"question": "half a line')
        return as_it_was(*given)

    monkeypatch.setattr(stages, "chunk", chunk)
    run_plain(study_in(folder, tiny_model, "train.methods=[lora]", "train.data=[naive]"), "evaluate")
    (base,) = folder.glob("out/evaluate-base-*/samples.jsonl")
    assert len(base.read_text().splitlines()) == 2


def test_a_chunk_that_leaves_no_room_for_a_question_is_told_before_the_model_is_asked(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("active_reading.augment.generate.make_engine", no_engine)
    folder = write_project(tmp_path)
    long = " ".join(f"The owl number {number} sleeps in the oak." for number in range(400))
    (folder / "documents" / "owls.txt").write_text(long)
    with pytest.raises(
        ValueError, match=r"a chunk of \d+ tokens does not fit before a question .* lower chunk.max_"
    ):
        run_plain(study_in(folder, tiny_model, "chunk.max_tokens=9000"), "generate")
    quiet = study_in(folder, tiny_model, "chunk.max_tokens=9000", "evaluate.ceilings=false")
    monkeypatch.undo()
    run_plain(quiet, "generate")
