"""push, diff and show, on a study that has run twice: one document was edited and one came in between.

Also: the data set that the study made is enough to make it again elsewhere.
"""

import argparse
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard

from active_reading.augment.changes import SCHEMA
from active_reading.augment.versions import list_versions
from active_reading.flows import dataset_commands
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import Study, load_study

DOCUMENTS = {
    "heron.md": "# The complete heron\n\nAdmiral was the tame heron of Orsella Vantrill, who lived in the river "
    "town of Pellamire.\n\nThe heron was fed on eels in the year 1921. It slept in a blue boat-house by the old "
    "mill. It walked along the river in the morning. It never learned to swim.\n",
    "kettle.txt": "The Wexholm kettle boils nine cups of water in two minutes and whistles a low note.\n",
}
EDIT = ("1921", "1922")
NEW = "Lake Umbrosel is the deepest lake of the north and freezes over in the month of November.\n"
HEADINGS = ["Load", "Sources and licences", "Counts", "Faithfulness and diversity", "Coverage"]
HEADINGS += ["Decontamination", "Generator", "Templates", "Make it again"]
SMALL = "train.methods=[full]"
TEMPLATE = (
    "---\nversion: 3\nanswer: questions\n---\nText:\n{{ text }}\n\n{{ num_items }} questions of {{ title }}\n"
)
HEADED = "---\nversion: 1\nanswer: text\n---\nIt is of {{ heading }}. {{ text }}\n\nTell it.\n"
STUDY = """
corpus: {path: docs}
chunk: {max_tokens: 128}
generate:
  engine: echo
  seed: 1  # with another one the echo's few texts of a chunk may be the same, and a strategy's fall as duplicates
  templates:
    - {template: paraphrase, replicates: 2}
    - {template: words/ask.j2, num_items: 3}
    - {template: words/above.j2}
    - {template: propose_strategies, num_items: 2, apply: apply_strategy}
dedupe: {threshold: 1}
export: {license: cc-by-4.0}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with `birds.yaml` and two versions below `runs/birds`; never changed by a test."""
    folder = tmp_path_factory.mktemp("birds")
    (folder / "docs").mkdir()
    (folder / "words").mkdir()
    (folder / "words" / "ask.j2").write_text(TEMPLATE)
    (folder / "words" / "above.j2").write_text(HEADED)
    (folder / "birds.yaml").write_text(STUDY)
    for name, text in DOCUMENTS.items():
        (folder / "docs" / name).write_text(text)
    study = study_in(folder, tiny_model)
    assert run_plain(study, "export") == folder / "runs" / "birds" / "dataset" / "v1"
    (folder / "docs" / "heron.md").write_text(DOCUMENTS["heron.md"].replace(*EDIT))
    (folder / "docs" / "lake.txt").write_text(NEW)
    assert run_plain(study, "export") == folder / "runs" / "birds" / "dataset" / "v2"
    return folder


def study_in(folder: Path, model: Path) -> Study:
    return load_study(str(folder / "birds.yaml"), [f"model={model}", f"output={folder / 'runs' / 'birds'}", SMALL])


@pytest.fixture
def say(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command says, in the folder of the study."""
    monkeypatch.chdir(place)
    parser = argparse.ArgumentParser()
    dataset_commands.add_commands(parser.add_subparsers(dest="command"))
    return lambda *words: dataset_commands.run_command(parser.parse_args([str(word) for word in words]))


def rows_of(place: Path, version: str) -> pl.DataFrame:
    return pl.read_parquet(place / "runs" / "birds" / "dataset" / version / "data" / "text" / "*.parquet")


def test_the_second_version_knows_what_was_edited_and_what_came(place):
    first, second = list_versions(place / "runs" / "birds" / "dataset")
    counts = second.manifest["changes"]
    old, new = rows_of(place, "v1"), rows_of(place, "v2")
    lake = new.filter(source="lake.txt").height
    assert counts["added"] - counts["removed"] == new.height - old.height
    assert counts["added"] >= lake > 1
    assert counts["superseded"] > 1
    changes = pl.read_parquet(second.folder / "changes.parquet")
    pair = changes.filter(change="superseded", template="chunk").row(0, named=True)
    texts = [rows.filter(id=name)["text"].item() for rows, name in ((old, pair["old_id"]), (new, pair["id"]))]
    assert texts[1] == texts[0].replace(*EDIT) != texts[0]
    assert changes.filter(source="kettle.txt").is_empty()
    assert first.manifest["changes"]["added"] == old.height


@pytest.mark.parametrize("named", ["v1 v2", "v1 v2 --study birds", "v1 v2 --study runs/birds", "folders"])
def test_diff_compares_versions_by_name_or_folder(say, place, named):
    words = named.split()
    if named == "folders":
        words = [str(place / "runs" / "birds" / "dataset" / name) for name in ("v1", "v2")]
    text = say("diff", *words)
    assert re.match(r"v1 -> v2: \d+ added, \d+ removed, \d+ superseded, \d+ relabelled\n", text)
    assert "\nadded:\n" in text
    assert re.search(r"\n  \w+  lake.txt \(chunk\)\n", text)
    assert re.search(r"\nsuperseded:\n(  .*\n)*  \w+ <- \w+  heron.md \(chunk\)\n", text)
    assert set(SCHEMA) == {"change", "id", "old_id", "source", "template", "strategy"}


def test_diff_of_a_version_with_itself_says_that_nothing_changed(say):
    assert say("diff", "v2", "v2") == "v2 -> v2: 0 added, 0 removed, 0 superseded, 0 relabelled"


def test_a_long_list_of_changes_is_cut(say, monkeypatch):
    monkeypatch.setattr(dataset_commands, "SHOWN", 1)
    assert re.search(r"added:\n  .*\n  and \d+ more", say("diff", "v1", "v2"))


@pytest.mark.parametrize("template", ["paraphrase", "ask", "apply_strategy"])
def test_show_leads_from_a_row_to_its_prompt_its_chunk_and_its_document(say, place, template):
    row = rows_of(place, "v2").filter(source="heron.md", template=template).row(0, named=True)
    document = DOCUMENTS["heron.md"].replace(*EDIT)
    text = say("show", row["id"])
    assert text.startswith(f"row {row['id']} of v2 ({template}, {row['num_tokens']} tokens)\n    ")
    for line in row["text"].split("\n"):
        assert f"    {line}".rstrip() in text
    asked, chunk = text.split("\n\nprompt to tiny (echo): ")[1].split("\n\nchunk ")
    assert f"template {template} (" in asked
    assert "temperature 0.7, top_p 1.0, seed " in asked
    told = {
        "paraphrase": "Say the same in other words.",
        "ask": "    3 questions of The complete heron",
        "apply_strategy": row["strategy"],
    }
    assert told[template] in asked
    span = document[row["start"] : row["end"]]
    assert span.split("\n")[-1] in asked
    assert chunk.startswith(f"{row['chunk_id']}: heron.md, characters {row['start']} to {row['end']}\n")
    assert text.endswith(
        f"\n\ndocument {row['document_id']}: The complete heron (heron.md, {len(document)} characters)"
    )


def test_show_knows_the_headings_above_a_chunk(say, place):
    rows = rows_of(place, "v2").filter(pl.col("start") > 0, source="heron.md", template="above")
    assert "It is of The complete heron. " in say("show", rows["id"][0]).split("\n\nchunk ")[0]


def test_show_finds_rows_of_older_versions_and_takes_the_beginning_of_an_id(say, place):
    old, new = rows_of(place, "v1"), rows_of(place, "v2")
    gone = old.join(new, on="id", how="anti").filter(template="paraphrase").row(0, named=True)
    assert say("show", gone["id"][:12]).startswith(f"row {gone['id']} of v1 (paraphrase")
    with pytest.raises(ValueError, match=r"several ids begin with '', such as \w+ and \w+: give more of it"):
        say("show", "")
    with pytest.raises(ValueError, match="no row of .*dataset has an id that begins with 'xyz'"):
        say("show", "xyz")


def test_show_of_a_chunk_has_no_prompt(say, place):
    row = rows_of(place, "v2").filter(template="chunk").row(0, named=True)
    text = say("show", row["id"])
    assert "prompt" not in text
    assert text.count(row["text"].split("\n")[0]) == 2


def test_show_needs_nothing_but_the_data_set(place, tmp_path, monkeypatch):
    """Of a version that was moved elsewhere, without the study's steps."""
    root = tmp_path / "runs" / "moved" / "dataset"
    shutil.copytree(place / "runs" / "birds" / "dataset" / "v2", root / "v2")
    monkeypatch.chdir(tmp_path)
    row = rows_of(place, "v2").filter(template="ask").row(0, named=True)
    parser = argparse.ArgumentParser()
    dataset_commands.add_commands(parser.add_subparsers(dest="command"))
    text = dataset_commands.run_command(parser.parse_args(["show", row["id"]]))
    assert f"\n    3 questions of {row['title']}\n" in text
    assert text.endswith(f"({row['source']}, not kept here)")
    headed = rows_of(place, "v2").filter(pl.col("start") > 0, template="above").row(0, named=True)
    text = dataset_commands.run_command(parser.parse_args(["show", headed["id"]]))
    assert "or tell the headings of a document that is not kept here" in text


def test_a_dry_run_of_push_shows_what_would_go_up_and_needs_no_network(say, place, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    folder = place / "runs" / "birds" / "dataset" / "v2"
    text = say("push", "birds", "--dry-run")
    assert text.startswith("repository  birds (of the account that is logged in), private if it is new\n")
    assert text.endswith("\nnothing was sent")
    listed = re.findall(r"^ +([\d,]+)  (\S+)$", text, re.MULTILINE)
    assert {name: int(size.replace(",", "")) for size, name in listed} == {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }
    assert say("push", "runs/birds", "--version", "v1", "--repo", "me/x", "--dry-run").startswith(
        "repository  me/x, private if it is new\ncommit      v1: "
    )
    assert "tag         v1\n" in say("push", folder.parent / "v1", "--dry-run")


def test_nothing_that_goes_up_names_a_folder_of_this_machine(place):
    folder = place / "runs" / "birds" / "dataset" / "v2"
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(place).encode() not in path.read_bytes(), path.name


def test_the_card_is_whole(place):
    folder = place / "runs" / "birds" / "dataset" / "v2"
    card = DatasetCard.load(folder / "README.md")
    assert (card.data.pretty_name, card.data.license) == ("birds", "cc-by-4.0")
    headings = re.findall("^## (.*)$", card.text, re.MULTILINE)
    assert headings == [*HEADINGS, "Versions"]
    rows = rows_of(place, "v2")
    for template, part in rows.group_by("template"):
        assert f"| {template[0]} | {part.height} | {part['num_tokens'].sum()} |\n" in card.text
    for document in ("heron.md", "kettle.txt", "lake.txt"):
        assert f"| `{document}` |" in card.text
    assert TEMPLATE.strip() in card.text


def test_the_data_set_and_its_documents_are_enough_to_make_it_again(place, tmp_path, tiny_model):
    version = place / "runs" / "birds" / "dataset" / "v2"
    shutil.copytree(version, tmp_path / "here")
    shutil.copytree(place / "docs", tmp_path / "here" / "documents")
    recipe = tmp_path / "here" / "study.yaml"
    assert yaml.safe_load(recipe.read_text())["generate"]["templates"][1]["template"] == "templates/ask.j2"
    study = load_study(str(recipe), [f"model={tiny_model}", f"output={tmp_path / 'out'}", SMALL])
    made = run_plain(study, "export")
    again = pl.read_parquet(made / "data" / "text" / "*.parquet")
    assert again.equals(rows_of(place, "v2"))


def test_it_is_made_again_without_what_the_tasks_ask(place, tmp_path, tiny_model):
    """Two tasks, of which one reads a text that a chunk holds."""
    for name in ("docs", "asked"):
        (tmp_path / name).mkdir()
    shutil.copytree(place / "words", tmp_path / "words")
    tasks = "[{name: nq_open_local, data: asked/nq.jsonl}, {name: wikitext_local, data: asked/wiki.txt}]"
    (tmp_path / "birds.yaml").write_text(f"{STUDY}evaluate: {{tasks: {tasks}}}\n")
    for name, text in DOCUMENTS.items():
        (tmp_path / "docs" / name).write_text(text)
    (tmp_path / "asked" / "nq.jsonl").write_text('{"question": "who owls", "answer": ["x"]}\n')
    (tmp_path / "asked" / "wiki.txt").write_text(DOCUMENTS["kettle.txt"])
    made = run_plain(study_in(tmp_path, tiny_model), "export")
    rows = pl.read_parquet(made / "data" / "text" / "*.parquet")
    assert rows.filter(source="kettle.txt").is_empty()
    here = tmp_path / "here"
    shutil.copytree(made, here)
    shutil.copytree(tmp_path / "docs", here / "documents")
    shutil.copytree(tmp_path / "asked", here, dirs_exist_ok=True)
    words = [f"model={tiny_model}", f"output={tmp_path / 'out'}", SMALL]
    again = run_plain(load_study(str(here / "study.yaml"), words), "export")
    assert pl.read_parquet(again / "data" / "text" / "*.parquet").equals(rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff", "v1", "v9"], "v9 is no version of a data set: it has no version.json"),
        (["diff", "v1", "v2", "--study", "fish"], "no data set of a study 'fish': give its name below runs/"),
        (["push", "fish", "--dry-run"], "no data set of a study 'fish'"),
        (["diff", "nowhere", "v2"], "nowhere is no version of a data set"),
    ],
)
def test_what_does_not_exist_is_named(say, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        say(*words)


def test_of_several_studies_one_has_to_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    dataset_commands.add_commands(parser.add_subparsers(dest="command"))
    arguments = parser.parse_args(["show", "x"])
    with pytest.raises(ValueError, match=r"which study\? Name it with --study NAME \(below runs/: none\)"):
        dataset_commands.run_command(arguments)
    for name in ("a", "b"):
        (tmp_path / "runs" / name / "dataset").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"\(below runs/: a, b\)"):
        dataset_commands.run_command(arguments)
