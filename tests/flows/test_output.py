"""The output folder: reopened with a warning when settings differ, never taken from anybody else."""

from pathlib import Path

import pytest
import yaml

from active_reading.flows.output import STUDY_FILE, open_output
from active_reading.flows.settings import Study


def study_in(folder: Path, **sections: object) -> Study:
    return Study.model_validate({"name": "tea", "output": str(folder), "corpus": {"path": "docs"}, **sections})


def test_a_new_folder_is_made_and_holds_the_resolved_study(tmp_path, caplog):
    study = study_in(tmp_path / "deep" / "out")
    open_output(study)
    written = yaml.safe_load((tmp_path / "deep" / "out" / STUDY_FILE).read_text())
    assert written == study.in_full()
    assert written["train"]["memory"]["num_keys"] == 128, "defaults are spelled out"
    assert caplog.messages == []


def test_the_same_study_reopens_its_folder_in_silence(tmp_path, caplog):
    for _ in range(2):
        open_output(study_in(tmp_path))
    assert caplog.messages == []


def test_a_folder_that_was_moved_or_written_with_relative_paths_is_reopened_in_silence(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    relative = Study.model_validate({"name": "tea", "output": "out", "corpus": {"path": "docs"}})
    open_output(relative)
    (tmp_path / "out" / STUDY_FILE).write_text(yaml.safe_dump(relative.model_dump()))
    open_output(relative)
    (tmp_path / "out").rename(tmp_path / "moved")
    open_output(relative.model_copy(update={"output": "moved"}))
    assert caplog.messages == []


def test_other_settings_are_used_with_a_warning_that_names_them(tmp_path, caplog):
    open_output(study_in(tmp_path))
    (tmp_path / "generate-abc").mkdir()
    open_output(study_in(tmp_path, train={"num_tokens": 500, "memory": {"top_k": 4}}, model="other/model"))
    (message,) = caplog.messages
    assert str(tmp_path) in message
    assert "(model, train.memory.top_k, train.num_tokens)" in message
    assert (tmp_path / "generate-abc").is_dir(), "earlier results stay"
    assert yaml.safe_load((tmp_path / STUDY_FILE).read_text())["train"]["num_tokens"] == 500


@pytest.mark.parametrize("content", ["a: [", "- 1", "\xff"])
def test_a_broken_study_file_of_an_earlier_run_is_replaced(tmp_path, content):
    study = study_in(tmp_path)
    open_output(study)
    (tmp_path / STUDY_FILE).write_bytes(content.encode("latin-1"))
    open_output(study)
    assert yaml.safe_load((tmp_path / STUDY_FILE).read_text()) == study.in_full()


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=f"output folder {tmp_path} holds files .* output=FOLDER"):
        open_output(study_in(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_folder_of_the_users_own_study_file_is_refused_and_the_file_left_alone(tmp_path):
    text = "# my notes\ncorpus: {path: docs}\n"
    (tmp_path / STUDY_FILE).write_text(text)
    with pytest.raises(ValueError, match="output=FOLDER"):
        open_output(study_in(tmp_path))
    assert (tmp_path / STUDY_FILE).read_text() == text


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match=f"output folder {tmp_path / 'out'} cannot be used .File exists.: choose"):
        open_output(study_in(tmp_path / "out"))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_parent_that_cannot_be_written_is_refused_with_the_cure(tmp_path, monkeypatch, error):
    """By a stand-in for the operating system: tests may run as root, who can write anywhere."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    expected = f"output folder {tmp_path / 'out'} cannot be used .{error.strerror}.: choose another with output="
    with pytest.raises(ValueError, match=expected):
        open_output(study_in(tmp_path / "out"))


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be used .Not a directory."):
        open_output(study_in(tmp_path / "file" / "out"))
