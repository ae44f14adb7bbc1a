"""The ledger: rows survive crashes, corruption, several writers and a full disk."""

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.ledger import SCHEMA, Ledger


def row(name: str, **changes: Any) -> dict[str, Any]:
    values = {
        "request_id": name,
        "chunk_id": "c1",
        "template": "paraphrase",
        "template_hash": "ab12",
        "strategy": None,
        "replicate": 0,
        "model": "tiny",
        "model_revision": "r1",
        "temperature": 0.7,
        "top_p": 0.95,
        "max_tokens": 64,
        "seed": 2**28 - 1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 4,
        "finish_reason": "stop",
        "text": f"The owl of {name}.",
        "error": None,
    }
    return values | changes


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def write_segment(ledger: Ledger, *names: str, **changes: Any) -> Path:
    before = set(segments(ledger.folder))
    with ledger.writer() as writer:
        for name in names:
            writer.append(row(name, **changes))
    (path,) = set(segments(ledger.folder)) - before
    return path


def test_a_ledger_that_was_never_written_reads_as_an_empty_table(tmp_path):
    rows = Ledger(tmp_path / "nowhere").read()
    assert rows.height == 0
    assert rows.schema == SCHEMA
    assert not (tmp_path / "nowhere").exists()


@settings(deadline=None)
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=5))
def test_rows_come_back_as_they_were_written(tmp_path_factory, texts):
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    written = [row(str(place), text=text, strategy=text or None) for place, text in enumerate(texts)]
    with ledger.writer() as writer:
        for values in written:
            writer.append(values)
    assert ledger.read().rows(named=True) == written
    assert ledger.read().schema == SCHEMA


def test_a_segment_whose_columns_hold_no_value_joins_the_others(tmp_path):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a", error="too long", strategy="List the owls")
    write_segment(ledger, "b", "c")
    assert ledger.read().schema == SCHEMA
    assert dict(ledger.read().select("request_id", "strategy").iter_rows()) == {
        "a": "List the owls",
        "b": None,
        "c": None,
    }


def test_a_value_that_comes_after_hundreds_of_empty_ones_is_kept(tmp_path):
    ledger = Ledger(tmp_path)
    rows = [row(str(place)) for place in range(300)] + [row("last", strategy="List the owls", error="no room")]
    with ledger.writer() as writer:
        for values in rows:
            writer.append(values)
    assert ledger.read().rows(named=True) == rows


def test_nothing_is_written_when_there_is_nothing_to_write(tmp_path):
    with Ledger(tmp_path / "ledger").writer() as writer:
        writer.flush()
    assert list((tmp_path / "ledger").iterdir()) == []


def test_rows_are_written_every_few_seconds_and_at_the_end(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("active_reading.augment.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(tmp_path)
    with ledger.writer(flush_seconds=5.0) as writer:
        for name, seconds in (("a", 1), ("b", 3), ("c", 2), ("d", 4), ("e", 4), ("f", 1)):
            now[0] += seconds
            writer.append(row(name))
        assert [pl.read_parquet(path)["request_id"].to_list() for path in segments(tmp_path)] == [
            ["a", "b", "c"],
            ["d", "e"],
        ]
    assert ledger.read()["request_id"].to_list() == ["a", "b", "c", "d", "e", "f"]


def test_an_interrupt_still_writes_what_is_done(tmp_path):
    def interrupted() -> None:
        with Ledger(tmp_path).writer() as writer:
            writer.append(row("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Ledger(tmp_path).read()["request_id"].to_list() == ["a"]


def test_a_request_answered_twice_is_read_once_and_the_first_answer_stands(tmp_path):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a", "b", text="first")
    write_segment(ledger, "b", "c", text="second")
    assert sorted(ledger.read().select("request_id", "text").rows()) == [
        ("a", "first"),
        ("b", "first"),
        ("c", "second"),
    ]


@pytest.mark.parametrize("order", [("failed", "answered"), ("answered", "failed")])
def test_an_answer_stands_before_a_failure_of_the_same_request(tmp_path, order):
    ledger = Ledger(tmp_path)
    kinds = {"failed": {"text": "", "error": "too long"}, "answered": {"text": "The owl."}}
    for kind in order:
        write_segment(ledger, "a", **kinds[kind])
    assert ledger.read().select("text", "error").rows() == [("The owl.", None)]


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "cut by one byte": data[:-1],
        "zeroed": bytes(len(data)),
        "text": b"request_id,text\n" * 40,
        "broken footer": data[:-60] + bytes(50) + data[-10:],
    }
    path.write_bytes(damaged[kind])


@pytest.mark.parametrize("kind", ["empty", "cut", "cut by one byte", "zeroed", "text", "broken footer"])
def test_a_corrupt_segment_is_set_aside_with_a_warning_and_the_rest_is_read(tmp_path, caplog, kind):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a")
    broken = write_segment(ledger, "b")
    write_segment(ledger, "c")
    damage(broken, kind)
    with caplog.at_level(logging.WARNING):
        assert ledger.read()["request_id"].to_list() == ["a", "c"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(broken) in caplog.text
    assert not broken.exists()
    assert broken.with_suffix(".unreadable").exists()
    caplog.clear()
    assert ledger.read()["request_id"].to_list() == ["a", "c"]
    assert caplog.records == []


SHAPES = {
    "a number that is none": lambda rows: rows.with_columns(seed=pl.lit("many")),
    "no address": lambda rows: rows.drop("request_id"),
    "no answer": lambda rows: rows.drop("text"),
    "no word on how it ended": lambda rows: rows.drop("finish_reason"),
    "no word on failures": lambda rows: rows.drop("error"),
}


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES.keys())
def test_a_segment_of_another_shape_is_set_aside_too(tmp_path, caplog, change):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a")
    change(pl.DataFrame([row("b")], schema=SCHEMA)).write_parquet(tmp_path / "other.parquet")
    assert ledger.read()["request_id"].to_list() == ["a"]
    assert "other.parquet" in caplog.text
    assert (tmp_path / "other.unreadable").exists()


def test_a_segment_written_before_a_column_was_added_keeps_its_rows(tmp_path, caplog, monkeypatch):
    """Missing columns are null, wherever the new one stands; a column less in between is the same case."""
    write_segment(Ledger(tmp_path), "a", error="too long")
    pl.DataFrame([row("b")], schema=SCHEMA).drop("seed").write_parquet(tmp_path / "b.parquet")
    grown = {"gpu_seconds": pl.Float64, **SCHEMA, "node": pl.String}
    monkeypatch.setattr("active_reading.augment.ledger.SCHEMA", grown)
    write_segment(Ledger(tmp_path), "c", gpu_seconds=1.5, node="n1")
    rows = Ledger(tmp_path).read().sort("request_id")
    new = {"gpu_seconds": None, "node": None}
    assert rows.rows(named=True) == [
        row("a", error="too long") | new,
        row("b", seed=None) | new,
        row("c", gpu_seconds=1.5, node="n1"),
    ]
    assert rows.schema == grown
    assert caplog.records == []


def test_a_segment_with_wider_types_or_columns_of_its_own_is_read(tmp_path):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a")
    other = pl.DataFrame([row("b")]).with_columns(extra=pl.lit(1))  # types as polars infers them
    assert other.schema["replicate"] == pl.Int64
    assert other.schema["error"] == pl.Null
    other.write_parquet(tmp_path / "other.parquet")
    assert ledger.read().schema == SCHEMA
    assert ledger.read().rows(named=True) == [row("a"), row("b")]


def test_two_readers_that_find_the_same_corrupt_segment_do_not_stop_each_other(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a")
    broken = write_segment(ledger, "b")
    damage(broken, "cut")
    real = pl.read_parquet_schema

    def another_reader_is_faster(path):
        if path == broken:
            path.rename(path.with_suffix(".unreadable"))
        return real(path)

    monkeypatch.setattr(pl, "read_parquet_schema", another_reader_is_faster)
    assert ledger.read()["request_id"].to_list() == ["a"]


WRITER = """
import sys
from pathlib import Path
from active_reading.augment.ledger import SCHEMA, Ledger

def row(name):
    values = {column: "x" if str(kind) == "String" else 0 for column, kind in SCHEMA.items()}
    return values | {"request_id": name, "error": None}

with Ledger(Path(sys.argv[1])).writer(flush_seconds=0.02) as writer:
    for place in range(100_000_000):
        known = len(writer.rows)
        writer.append(row(str(place)))
        if len(writer.rows) < known + 1:
            print(place, flush=True)
"""


def test_a_killed_writer_loses_only_rows_that_were_not_flushed_and_leaves_no_broken_segment(tmp_path):
    """kill -9 at several moments; the child prints the last row of each segment after it is in place."""
    for killed_after in (1, 4, 9):
        folder = tmp_path / str(killed_after)
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert child.stdout is not None
        flushed = [int(child.stdout.readline()) for _ in range(killed_after)][-1]
        os.kill(child.pid, signal.SIGKILL)
        flushed = max([flushed, *(int(line) for line in child.stdout if line.endswith("\n"))])
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        found = [int(name) for name in Ledger(folder).read()["request_id"]]
        assert sorted(found) == list(range(len(found)))
        assert len(found) > flushed
        assert list(folder.glob("*.unreadable")) == []
        with Ledger(folder).writer() as writer:
            writer.append(row("after"))
        assert Ledger(folder).read().height == len(found) + 1


def test_a_reader_never_meets_a_segment_that_is_still_being_written(tmp_path, monkeypatch, caplog):
    ledger = Ledger(tmp_path)
    write_segment(ledger, "a")
    real = pl.DataFrame.write_parquet
    seen: list[list[str]] = []

    def slow(frame, path):
        Path(path).write_bytes(b"PAR1, and the rest is to come")
        seen.append(ledger.read()["request_id"].to_list())
        real(frame, path)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", slow)
    write_segment(ledger, "b")
    assert seen == [["a"]]
    assert caplog.records == []
    assert ledger.read()["request_id"].to_list() == ["a", "b"]


def test_two_writers_at_once_lose_nothing(tmp_path):
    ledger = Ledger(tmp_path)

    def write(writer_name: str) -> None:
        with ledger.writer(flush_seconds=0.0) as writer:
            for place in range(40):
                writer.append(row(f"{writer_name}{place}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "xyz"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert set(ledger.read().columns) == set(SCHEMA)  # reading meanwhile meets no half-written segment
    for thread in threads:
        thread.join()
    assert sorted(ledger.read()["request_id"]) == sorted(f"{name}{place}" for name in "xyz" for place in range(40))
    assert len(segments(tmp_path)) > 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}


def test_two_segments_written_in_the_same_moment_have_different_names(tmp_path, monkeypatch):
    monkeypatch.setattr("active_reading.augment.ledger.time.time_ns", lambda: 7)
    ledger = Ledger(tmp_path)
    assert write_segment(ledger, "a") != write_segment(ledger, "b")
    assert ledger.read().height == 2


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_failing_write_names_the_ledger_removes_the_partial_file_and_keeps_the_rows(tmp_path, monkeypatch, step):
    real = pl.DataFrame.write_parquet

    def full_disk(frame, path):
        real(frame.head(0), path)
        raise OSError(28, "No space left on device")

    def no_rename(source, target):
        raise OSError(28, "No space left on device")

    ledger = Ledger(tmp_path / "ledger")
    writer = ledger.writer()
    writer.append(row("a"))
    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(pl.DataFrame, "write_parquet", full_disk)
        else:
            patch.setattr("active_reading.augment.ledger.os.replace", no_rename)
        with pytest.raises(OSError, match="cannot write to the ledger .*ledger: .*No space left on device"):
            writer.flush()
    assert list(ledger.folder.iterdir()) == []
    writer.flush()
    assert ledger.read()["request_id"].to_list() == ["a"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from active_reading.augment.ledger import SCHEMA, Ledger

writer = Ledger(Path(sys.argv[1])).writer()
writer.append({name: None for name in SCHEMA} | {"request_id": "a", "text": "".join(map(chr, range(1000, 9000)))})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    writer.flush()
except OSError as error:
    print(error)
"""


def test_a_write_that_the_system_really_refuses_names_the_ledger_too(tmp_path):
    """A limit on the size of files stands for a full disk: the error is the system's, as polars passes it on."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"cannot write to the ledger {tmp_path}: " in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
