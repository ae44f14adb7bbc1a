"""Versions: immutable, whole or not there, and one at a time."""

import json
import logging
import multiprocessing
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from active_reading.augment import versions
from active_reading.augment.versions import (
    CARD,
    CHANGED,
    MANIFEST,
    Version,
    check_files,
    list_versions,
    lock_of,
    open_version,
    publish,
)

FACTS = {"study": "s", "views": {"instruction": "x"}}
Publish = Callable[..., Version]


def files_of(made: Path) -> list[str]:
    return sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())


def made_in(folder: Path, words: str = "The card.\n", **more: str) -> Path:
    for name, text in {CARD: words, **more}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def go(write, tmp_path, root, distinct) -> Publish:
    """Publishes the small data set, with only the texts of the given ids when some are given."""

    def published(*ids: str, words: str = "The card.\n", facts: dict = FACTS, **more: str) -> Version:
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        texts = distinct.filter(pl.col("id").is_in(ids)) if ids else distinct
        made = made_in(write(tmp_path / "made", distinct=texts), words, **more)
        return publish(root, made, files_of(made), facts)

    return published


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_first_version_holds_all_and_is_described(go, root, tmp_path):
    version = go()
    assert (version.folder, version.name) == (root / "v1", "v1")
    of = version.manifest
    assert (of["study"], of["rows"], of["tokens"]) == ("s", 6, 36)
    assert of["changes"] == {"added": 6, "removed": 0, "superseded": 0, "relabelled": 0}
    for name in files_of(tmp_path / "made"):
        if name != CARD:
            assert (version.folder / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    card = (version.folder / CARD).read_text()
    assert card.startswith("The card.\n\n## Versions\n\nThis is v1.\n\n| version | created | rows |")
    assert f"| v1 | {of['created']} | 6 | 36 | 6 | 0 | 0 | 0 |\n" in card
    assert open_version(version.folder) == version
    check_files(version)


def test_a_new_version_appears_only_when_rows_differ(go, root, caplog):
    caplog.set_level(logging.INFO, "active_reading")
    first = go()
    before = contents(root)
    assert go() == first
    assert contents(root) == before
    assert "data set: v1 has the same rows; nothing changed" in caplog.messages
    second = go("t1", "t2")
    assert second.name == "v2"
    assert second.manifest["changes"]["removed"] == 1
    assert "data set: v2 (0 added, 1 removed, 0 superseded, 0 relabelled)" in caplog.messages
    assert pl.read_parquet(second.folder / CHANGED).select("change", "old_id").rows() == [("removed", "t3")]
    assert {name: text for name, text in contents(root).items() if name.startswith("v1/")} == {
        name: text for name, text in before.items() if name.startswith("v1/")
    }
    assert go().name == "v3", "history goes forward: the rows of v1 again are a change of v2"
    assert [version.name for version in list_versions(root)] == ["v1", "v2", "v3"]
    assert re.findall(r"^\| (v\d) ", (root / "v3" / CARD).read_text(), re.MULTILINE) == ["v1", "v2", "v3"]


def test_the_same_rows_in_other_bytes_are_the_same(go, write, tmp_path, root, distinct):
    """Another release of polars may write other bytes."""
    first = go()
    made = made_in(write(tmp_path / "other"))
    for path in made.glob("data/*/*.parquet"):
        pl.read_parquet(path).write_parquet(path, compression="snappy")
    assert publish(root, made, files_of(made), FACTS) == first


def test_views_that_were_written_otherwise_are_a_new_version(go):
    go()
    assert go(facts={**FACTS, "views": {"instruction": "y"}}).name == "v2"
    assert go(facts={**FACTS, "views": {"instruction": "y"}, "study": "t"}).name == "v2"


def test_new_words_about_the_same_rows_are_said_in_place(go, root, caplog):
    caplog.set_level(logging.INFO, "active_reading")
    first = go(words="No licence.\n", **{"study.yaml": "a: 1\n", "templates/old.j2": "x"})
    data = {name: text for name, text in contents(root / "v1").items() if name.startswith("data/")}
    second = go(words="Licence: mit.\n", **{"study.yaml": "a: 1\n", "templates/new.j2": "y"})
    assert second == open_version(first.folder) != first
    assert (root / "v1" / CARD).read_text().startswith("Licence: mit.\n\n## Versions")
    assert not (root / "v1" / "templates" / "old.j2").exists()
    assert (root / "v1" / "templates" / "new.j2").read_text() == "y"
    assert "templates/new.j2" in second.files
    assert {name: text for name, text in contents(root / "v1").items() if name.startswith("data/")} == data
    assert "data set: v1 has the same rows; README.md, templates/new.j2 said anew" in caplog.messages


def test_rows_are_read_only(go):
    version = go()
    for name in version.manifest["files"]:
        assert not (version.folder / name).stat().st_mode & 0o222


def test_what_someone_laid_beside_a_version_is_no_part_of_it(go, root):
    version = go()
    (root / "v1" / ".env").write_text("HF_TOKEN=secret")
    assert ".env" not in open_version(root / "v1").files
    assert go() == version
    assert (root / "v1" / ".env").exists()


def test_a_version_that_is_not_whole_is_passed_over_and_its_number_is_not_used_again(go, root, caplog):
    go("t1")
    go()
    (broken,) = (root / "v2" / "data" / "text").iterdir()
    broken.chmod(0o644)
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"v2 is not whole: data/text/\S+ is missing or cut; the next"):
        open_version(root / "v2")
    third = go()
    assert third.name == "v3"
    assert third.manifest["changes"]["added"] == 2, "against v1"
    assert any("v2 is not whole" in line for line in caplog.messages)


def killed(root: Path, made: Path) -> None:
    """Publish and die when half of the files are there."""
    copy, copied = shutil.copyfile, []

    def cut(source: Path, target: Path) -> None:
        copied.append(copy(source, target))
        if len(copied) == 3:
            multiprocessing.process.os._exit(9)

    versions.shutil.copyfile = cut  # type: ignore[assignment]
    publish(root, made, files_of(made), FACTS)


def test_a_killed_run_leaves_no_half_version_and_the_next_one_cleans_up(go, write, tmp_path, root):
    """A process of its own is killed in the middle of its files."""
    made = made_in(write(tmp_path / "first"))
    process = multiprocessing.get_context("fork").Process(target=killed, args=(root, made))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    (left,) = root.glob(".partial-*")
    assert len(contents(left)) == 3
    assert list_versions(root) == []
    assert go().name == "v1"
    assert [path.name for path in root.iterdir()] == ["v1"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": 3, "words": []}', '{"version": "x"}'])
def test_a_manifest_that_says_nothing_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=f"{MANIFEST} cannot be read"):
        open_version(tmp_path)


def test_a_folder_that_is_no_version_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"is no version of a data set: it has no version.json"):
        open_version(tmp_path)


def test_a_changed_file_is_noticed(go):
    version = go()
    path = version.folder / next(iter(version.manifest["files"]))
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="was changed after v1 was published"):
        check_files(version)


def test_two_runs_take_turns_and_the_second_says_so(go, write, tmp_path, root, distinct, caplog):
    """While a run publishes, another one comes with other rows: it waits, and its changes are against the first."""
    made = made_in(write(tmp_path / "second", distinct=distinct.head(1)))
    go("t1", "t2")
    lock = FileLock(lock_of(root))
    lock.acquire()
    done: list[Version] = []
    other = threading.Thread(target=lambda: done.append(publish(root, made, files_of(made), FACTS)))
    other.start()
    while not any("another run is publishing a version; waiting" in line for line in caplog.messages):
        other.join(0.01)
        assert other.is_alive()
    assert not (root / "v2").exists()
    lock.release()
    other.join(60)
    assert done[0].name == "v2"
    assert done[0].manifest["changes"] == {"added": 0, "removed": 1, "superseded": 0, "relabelled": 0}


def test_where_locks_do_not_hold_one_run_wins_and_the_other_says_so(go, root, monkeypatch):
    """As on a network file system: the other run takes the name just before this one's rename."""
    fill = versions._fill

    def overtaken(folder: Path, *rest: object) -> None:
        fill(folder, *rest)  # type: ignore[arg-type]
        shutil.copytree(folder, root / "v1")

    monkeypatch.setattr(versions, "_fill", overtaken)
    with pytest.raises(ValueError, match=r"another run published \S+v1 at the same moment, .*: run the"):
        go()
    assert not list(root.glob(".partial-*"))
    assert json.loads((root / "v1" / MANIFEST).read_text())["rows"] == 6
