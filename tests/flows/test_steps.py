"""Steps: made once, made again when damaged, and addressed by what they are made from and nothing else."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from active_reading.flows.steps import MANIFEST, Step, file_hash, read_step, run_step


class Builder:
    """Writes two files and counts how often it is asked to."""

    def __init__(self, text: str = "result") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        assert sorted(path.name for path in folder.iterdir()) == ["config.yaml"], "a build starts from nothing"
        (folder / "rows.txt").write_text(self.text)
        (folder / "deep").mkdir()
        (folder / "deep" / "more.txt").write_text("more")
        return {"rows": len(self.text)}


def step(root: Path, build: Any, **changes: Any) -> Step:
    parts = {"name": "chunk", "version": 1, "config": {"size": 5, "deep": {"a": 1}}, "inputs": {"docs": "abc"}}
    return run_step(root, **(parts | changes), build=build)


def test_a_second_run_does_nothing_and_answers_the_same(tmp_path):
    build = Builder()
    first, second = step(tmp_path, build), step(tmp_path, build)
    assert build.calls == 1
    assert second == first
    assert first.summary == {"rows": 6}
    assert first.folder.parent == tmp_path
    assert first.folder.name.startswith("chunk-")


def test_the_configuration_lies_beside_the_result(tmp_path):
    folder = step(tmp_path, Builder()).folder
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"size": 5, "deep": {"a": 1}}
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == "chunk"
    assert manifest["inputs"] == {"docs": "abc"}
    assert manifest["files"].keys() == {"config.yaml", "rows.txt", "deep/more.txt"}


CHANGES = {
    "name": ({"name": "filter"}, True),
    "version": ({"version": 2}, True),
    "value in the configuration": ({"config": {"size": 6, "deep": {"a": 1}}}, True),
    "value deep in the configuration": ({"config": {"size": 5, "deep": {"a": 2}}}, True),
    "new key in the configuration": ({"config": {"size": 5, "deep": {"a": 1}, "new": None}}, True),
    "type of a value": ({"config": {"size": "5", "deep": {"a": 1}}}, True),
    "content of an input": ({"inputs": {"docs": "abd"}}, True),
    "role of an input": ({"inputs": {"chunks": "abc"}}, True),
    "another input": ({"inputs": {"docs": "abc", "model": "x"}}, True),
    "order of the keys": ({"config": {"deep": {"a": 1}, "size": 5}}, False),
    "what the build would write": ({"build": Builder("other")}, False),
}


@pytest.mark.parametrize(("change", "is_new"), CHANGES.values(), ids=CHANGES.keys())
def test_what_makes_a_new_result(tmp_path, change, is_new):
    before = step(tmp_path, Builder())
    after = step(tmp_path, change.get("build", Builder()), **{k: v for k, v in change.items() if k != "build"})
    assert (after.folder != before.folder) == is_new
    assert read_step(before.folder) == before, "the earlier result stays"


def test_the_place_does_not_change_the_name_of_a_result(tmp_path):
    first, second = step(tmp_path / "a", Builder()), step(tmp_path / "b" / "c", Builder())
    assert first.folder.name == second.folder.name
    assert first.digest == second.digest


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("damage", [delete, cut])
@pytest.mark.parametrize("file", ["rows.txt", "deep/more.txt", "config.yaml", MANIFEST])
def test_a_missing_or_cut_file_makes_the_step_again(tmp_path, damage, file):
    build = Builder()
    first = step(tmp_path, build)
    damage(first.folder / file)
    assert read_step(first.folder) is None
    again = step(tmp_path, build)
    assert build.calls == 2
    assert again.digest == first.digest
    assert (again.folder / "rows.txt").read_text() == "result"


@pytest.mark.parametrize("content", ["", "[]", "null", '{"files": {}}', '{"files": []}', "\xff"])
def test_a_broken_manifest_is_no_manifest(tmp_path, content):
    build = Builder()
    manifest = step(tmp_path, build).folder / MANIFEST
    manifest.write_bytes(content.encode("latin-1"))
    assert step(tmp_path, build).summary == {"rows": 6}
    assert build.calls == 2


def test_the_digest_follows_the_files_and_the_summary(tmp_path):
    digests = {
        step(tmp_path / "1", Builder()).digest,
        step(tmp_path / "2", Builder("else")).digest,
        step(tmp_path / "3", lambda folder: Builder()(folder) | {"rows": 7}).digest,
    }
    assert len(digests) == 3


def test_a_result_that_is_made_again_differently_is_noticed_by_later_steps(tmp_path):
    first = step(tmp_path, Builder())
    later = step(tmp_path, Builder(), name="filter", inputs={"chunk": first.digest})
    (first.folder / "rows.txt").unlink()
    changed = step(tmp_path, Builder("another"))
    assert step(tmp_path, Builder(), name="filter", inputs={"chunk": changed.digest}).folder != later.folder


def test_an_exception_leaves_nothing_that_counts_and_the_next_run_starts_afresh(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("the disk caught fire")

    with pytest.raises(RuntimeError, match="caught fire"):
        step(tmp_path, fail)
    assert not list(tmp_path.glob(f"*/{MANIFEST}"))
    finished = step(tmp_path, Builder())
    assert not (finished.folder / "half.txt").exists()


def test_a_step_without_a_summary_has_an_empty_one(tmp_path):
    assert step(tmp_path, lambda folder: None).summary == {}


def test_what_a_kill_left_of_a_manifest_is_no_file_of_the_step(tmp_path):
    def build(folder: Path) -> dict[str, Any]:
        (folder / "rows.txt").write_text("result")
        return {}

    made = step(tmp_path, build, resumable=True)
    (made.folder / MANIFEST).rename(made.folder / f"{MANIFEST}.partial")
    again = step(tmp_path, build, resumable=True)
    assert read_step(again.folder) == again
    assert again.digest == made.digest


def test_a_result_that_is_not_final_serves_one_run_and_is_made_again(tmp_path, caplog):
    caplog.set_level("INFO", logger="active_reading")
    build = Builder("short")
    first = step(tmp_path, build, is_final=lambda summary: summary["rows"] > 5)
    assert (first.folder / "rows.txt").read_text() == "short"
    assert read_step(first.folder) is None
    assert caplog.messages[-1].startswith("chunk: left unfinished after ")
    assert step(tmp_path, build, is_final=lambda summary: summary["rows"] > 5).digest == first.digest
    assert build.calls == 2
    assert step(tmp_path, build, is_final=lambda summary: True).digest == first.digest
    assert read_step(first.folder) == step(tmp_path, build)
    assert build.calls == 3


def test_file_hashes_depend_on_bytes_alone(tmp_path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")


def slow_build(log: Path, seconds: float, folder: Path) -> dict[str, Any]:
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    (folder / "rows.txt").write_text("half")
    time.sleep(seconds)
    (folder / "rows.txt").write_text("result")
    return {"rows": 6}


def run_slowly(root: Path, log: Path, seconds: float) -> None:
    assert step(root, lambda folder: slow_build(log, seconds, folder)).summary == {"rows": 6}


def start(root: Path, log: Path, seconds: float) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=run_slowly, args=(root, log, seconds))
    process.start()
    return process


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_build_is_made_again(tmp_path):
    root, log = tmp_path / "runs", tmp_path / "log"
    process = start(root, log, 60)
    wait_until(lambda: list(root.glob("chunk-*/rows.txt")))
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    assert not list(root.glob(f"*/{MANIFEST}"))
    assert step(root, Builder()).summary == {"rows": 6}, "the lock of a dead process is free"


def test_two_processes_that_want_the_same_step_make_it_once(tmp_path):
    root, log = tmp_path / "runs", tmp_path / "log"
    processes = [start(root, log, 0.5) for _ in range(3)]
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_different_steps_do_not_wait_for_each_other(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path / "runs", log, 60)
    wait_until(log.exists)
    step(tmp_path / "runs", Builder(), name="filter")
    assert process.is_alive()
    process.kill()
    process.join(20)
