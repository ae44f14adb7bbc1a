"""The list of every key of a study."""

import os
import subprocess
import sys

import pytest

from active_reading.flows.key_list import list_keys
from active_reading.flows.settings import Study, load_study


def keys(below: str = "") -> list[str]:
    return [line for line in list_keys(below).splitlines() if not line.startswith(" ")]


def test_every_key_of_a_study_is_there_and_no_other():
    named = {line.partition("=")[0] for line in keys()}
    sections = {
        "generate": {"endpoint": {"url": "http://localhost/v1", "model": "m"}, "engine": "endpoint"},
        "evaluate": {"tasks": [{"name": "hellaswag"}]},
    }
    full = Study.model_validate({"name": "one", "corpus": {"path": "."}, **sections}).model_dump()

    def of(values: object, prefix: str) -> set[str]:
        if isinstance(values, list) and values and isinstance(values[0], dict):
            return of(values[0], f"{prefix}[]")
        if isinstance(values, dict) and values:
            return {key for name, value in values.items() for key in of(value, f"{prefix}.{name}".strip("."))}
        return {prefix}

    assert named == of(full, "")


def test_defaults_are_what_a_command_line_takes(tmp_path):
    plain = load_study(str(tmp_path), [])
    given = [line for line in keys() if "[]" not in line and ".endpoint." not in line and not line.endswith("=")]
    given = [line for line in given if not line.startswith("output=")]
    assert load_study(str(tmp_path), given) == plain


def test_every_key_says_what_it_does():
    lines = list_keys().splitlines()
    silent = [
        key for key, words in zip(lines, [*lines[1:], ""], strict=True) if key[0] != " " and words[:4] != "    "
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("below", "first", "number"),
    [("train.memory.top_t", "train.memory.top_t=1000", 1), ("train.lora", "train.lora.rank=32", 2)],
)
def test_a_section_or_one_key_alone(below, first, number):
    assert (keys(below)[0], len(keys(below))) == (first, number)


def test_an_unknown_section_is_refused():
    with pytest.raises(ValueError, match="a study has no section or key 'trian'"):
        list_keys("trian")


@pytest.mark.parametrize("words", [["settings"], ["ingest", "docs"]], ids=" ".join)
def test_a_reader_that_ends_early_is_no_error(tmp_path, tiny_model, words):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.txt").write_text("The owl sleeps in the oak.")
    command = [sys.executable, "-m", "active_reading.flows.cli", *words]
    if words[0] == "ingest":
        command += ["--model", str(tiny_model), "train.memory.layers=[1]"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_nobody_need_listen():
    command = f"{sys.executable} -m active_reading.flows.cli settings train.lora >&-"
    assert subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE).returncode == 0
