"""Gold questions of a Hugging Face data set become a file of JSON lines, which takes its place in the study."""

import json
from pathlib import Path

import datasets
import pytest

from active_reading.eval.questions import read_questions
from active_reading.flows.fetch import fetch_questions, keep_asked
from active_reading.flows.settings import Study, load_study

SQUAD = {
    "title": ["Owls", "Owls", "Moss"],
    "question": ["Where does it sleep?", "Who flies?", "What is never told?"],
    "answers": [{"text": ["the oak", "the oak"]}, {"text": ["the owl", "owls"]}, {"text": []}],
}


def study_on(folder: Path, rows: dict, monkeypatch, split: str = "validation") -> Study:
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(folder / "cache"))
    datasets.DatasetDict({split: datasets.Dataset.from_dict(rows)}).save_to_disk(str(folder / "asked"))
    (folder / "one.txt").write_text("The owl sleeps in the oak.")
    (folder / "study.yaml").write_text(
        f"corpus: {{path: one.txt}}\nevaluate: {{questions: 'hf:{folder / 'asked'}', questions_split: {split}}}\n"
    )
    return load_study(str(folder / "study.yaml"), [])


def test_questions_in_squads_columns_are_read_and_those_without_an_answer_left_out(tmp_path, monkeypatch):
    study = study_on(tmp_path, SQUAD, monkeypatch)
    fetch_questions(study)
    asked = read_questions(Path(study.evaluate.questions))
    assert [(each.question, each.answers, each.document) for each in asked] == [
        ("Where does it sleep?", ("the oak",), "Owls"),
        ("Who flies?", ("the owl", "owls"), "Owls"),
    ]


@pytest.mark.parametrize(
    "columns",
    [
        {"answers": [["Zora", "Zo"]]},
        {"answer": [{"value": "Zora", "aliases": ["Zo"]}]},
        {"answer": ["Zora"], "kind": ["seen"]},
    ],
)
def test_answers_may_be_lists_values_with_aliases_or_plain(tmp_path, monkeypatch, columns):
    study = study_on(tmp_path, {"question": ["Who?"], **columns}, monkeypatch, "test")
    fetch_questions(study)
    (asked,) = read_questions(Path(study.evaluate.questions))
    assert asked.answers[0] == "Zora"
    assert asked.kind == ("seen" if "kind" in columns else None)


def test_the_same_questions_have_the_same_file_and_others_another(tmp_path, monkeypatch):
    study = study_on(tmp_path, SQUAD, monkeypatch)
    again = study.model_copy(deep=True)
    fetch_questions(study)
    fetch_questions(again)
    assert again.evaluate.questions == study.evaluate.questions
    fetch_questions(study)  # a file now, and left as it is
    assert again.evaluate.questions == study.evaluate.questions
    assert len(list((tmp_path / "cache" / "questions").iterdir())) == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"prompt": ["Who?"]}, "row 1: needs the columns 'question' and 'answers', and has prompt"),
        ({"question": ["Who?"], "answers": [7]}, "row 1: 'answers' is 7: give a text or a list of texts"),
        ({"question": ["Who?"], "answers": ["Zora"], "kind": [5]}, "row 1: 'kind' is 5: give a text, or leave"),
        ({"question": ["Who?"], "answers": [json.loads("[]")]}, "has no question with an answer"),
    ],
)
def test_a_data_set_that_holds_no_questions_is_refused(tmp_path, monkeypatch, rows, told):
    with pytest.raises(ValueError, match=told.replace("[", "\\[")):
        fetch_questions(study_on(tmp_path, rows, monkeypatch))


def test_a_data_set_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    study = study_on(tmp_path, SQUAD, monkeypatch)
    study.evaluate.questions_split = "nowhere"
    with pytest.raises(ValueError, match=r"data set .*asked.* \(split nowhere\) cannot be opened"):
        fetch_questions(study)


def test_a_data_set_that_breaks_off_is_named_with_the_last_row_that_was_read(tmp_path, monkeypatch):
    study = study_on(tmp_path, SQUAD, monkeypatch)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "validation.jsonl").write_text('{"question": "Who?", "answers":')
    study.evaluate.questions = f"hf:{tmp_path / 'cut'}"
    with pytest.raises(ValueError, match=r"data set '.*cut' cannot be read after row 0: "):
        fetch_questions(study)


def test_what_is_asked_stays_as_it_was_when_its_files_change(tmp_path):
    for name in ("one.txt", "gold.jsonl", "nq.jsonl"):
        (tmp_path / name).write_text(name)
    (tmp_path / "study.yaml").write_text(
        "corpus: {path: one.txt}\n"
        "evaluate: {questions: gold.jsonl, tasks: [{name: nq_open_local, data: nq.jsonl}]}\n"
    )
    study = load_study(str(tmp_path / "study.yaml"), [f"output={tmp_path / 'out'}"])
    study.root.mkdir()
    kept = keep_asked(study)
    files = [Path(kept.evaluate.questions), Path(kept.evaluate.tasks[0].data)]
    assert [file.name for file in files] == ["gold.jsonl", "nq.jsonl"]
    (tmp_path / "gold.jsonl").write_text("others")
    assert [file.read_text() for file in files] == ["gold.jsonl", "nq.jsonl"]
    other = keep_asked(study).evaluate.questions
    assert (Path(other).read_text(), Path(other) == files[0]) == ("others", False)
    assert study.evaluate.questions == str(tmp_path / "gold.jsonl"), "the study says where they come from"


def test_a_copy_that_somebody_edited_is_replaced(tmp_path):
    (tmp_path / "one.txt").write_text("The owl sleeps.")
    (tmp_path / "gold.jsonl").write_text("as it is")
    words = [f"output={tmp_path / 'out'}", f"evaluate.questions={tmp_path / 'gold.jsonl'}"]
    study = load_study(str(tmp_path / "one.txt"), words)
    study.root.mkdir()
    copy = Path(keep_asked(study).evaluate.questions)
    copy.write_text("as somebody wants it")
    assert Path(keep_asked(study).evaluate.questions).read_text() == "as it is"
