"""Changes between two data sets, against what was done to them."""

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from active_reading.augment.changes import CHANGES, SCHEMA, compare_versions, count_changes, describe_changes


def told(changes: pl.DataFrame) -> dict[str, set[tuple[str | None, str | None]]]:
    """Pairs of new and old id by kind."""
    assert dict(changes.schema) == SCHEMA
    found: dict[str, set[tuple[str | None, str | None]]] = {}
    for row in changes.iter_rows(named=True):
        found.setdefault(row["change"], set()).add((row["id"], row["old_id"]))
    return found


@pytest.fixture
def compare(write, tmp_path, chunks, distinct):
    old = write(tmp_path / "old")

    def compared(chunks=chunks, distinct=distinct, removed=()):
        return told(compare_versions(old, write(tmp_path / "new", chunks, distinct, removed)))

    return compared


def test_the_same_rows_in_another_order_are_no_change(compare, distinct):
    assert compare() == {}
    assert compare(distinct=distinct.reverse()) == {}


def test_rows_that_came_and_went(compare, distinct):
    more = pl.concat([distinct, distinct.head(1).with_columns(id=pl.lit("t9"), text=pl.lit("Eels hide."))])
    assert compare(distinct=more) == {"added": {("t9", None)}}
    assert compare(distinct=distinct.tail(2)) == {"removed": {(None, "t1")}}
    assert compare(removed=["c2"]) == {"removed": {(None, "c2")}}


def test_an_edited_chunk_supersedes_the_old_one_and_so_do_the_texts_in_its_slots(compare, chunks, distinct):
    """The second document is edited: its chunk, its ids, and the answer about it are others."""
    edited = chunks.with_columns(
        pl.col("chunk_id").replace("c3", "c3b"),
        pl.col("document_id").replace("d2", "d2b"),
        pl.col("text").replace("An eel hides.", "An eel hides well."),
    )
    answered = distinct.with_columns(
        pl.col("id").replace("t1", "t1b"),
        pl.col("chunk_id").replace("c3", "c3b"),
        pl.col("text").str.replace("What hides", "What hides well"),
    )
    assert compare(edited, answered) == {"superseded": {("c3b", "c3"), ("t1b", "t1")}}
    unasked = compare(edited, answered.filter(pl.col("template") != "questions"))
    assert unasked == {"superseded": {("c3b", "c3")}, "removed": {(None, "t1")}}


def test_chunks_are_aligned_like_lines_of_a_diff(compare, chunks, distinct):
    """A chunk before the others is new, the first is as it was, the second is edited; all have new ids."""
    owls = chunks.head(2).with_columns(
        chunk_id=pl.Series(["c1b", "c2b"]),
        document_id=pl.lit("d1b"),
        start=pl.col("start") + 50,
        text=pl.Series([chunks["text"][0], "Another ending."]),
    )
    first = owls.head(1).with_columns(
        chunk_id=pl.lit("c0b"), start=pl.lit(0, pl.Int64), text=pl.lit("A new beginning.")
    )
    texts = distinct.with_columns(pl.col("chunk_id").replace("c1", "c1b"))
    assert compare(pl.concat([first, owls, chunks.tail(1)]), texts) == {
        "added": {("c0b", None)},
        "superseded": {("c2b", "c2")},
        "relabelled": {("c1b", "c1"), ("t2", "t2"), ("t3", "t3")},
    }


def test_another_strategy_is_another_slot(compare, distinct):
    drawn = distinct.with_columns(
        pl.col("id").replace("t3", "t3b"), pl.col("strategy").replace("List every tree", "Count"), text="text"
    ).with_columns(pl.when(pl.col("id") == "t3b").then(pl.lit("One tree.")).otherwise("text").alias("text"))
    assert compare(distinct=drawn) == {"added": {("t3b", None)}, "removed": {(None, "t3")}}


def test_the_model_that_answers_anew_supersedes_its_own_answer(compare, distinct):
    anew = distinct.with_columns(text=pl.when(pl.col("id") == "t2").then(pl.lit("Other words.")).otherwise("text"))
    assert compare(distinct=anew) == {"superseded": {("t2", "t2")}}


def test_a_renamed_document_relabels_its_rows(compare, chunks):
    renamed = chunks.with_columns(pl.col("source").replace("deep/eel.txt", "eel.txt"))
    assert compare(renamed) == {"relabelled": {("c3", "c3"), ("t1", "t1")}}


def test_equal_texts_are_paired_one_by_one(compare, distinct):
    twice = pl.concat([distinct, distinct.filter(id="t2").with_columns(id=pl.lit("t2x"))])
    assert compare(distinct=twice) == {"added": {("t2x", None)}}


PLAN = st.lists(st.sampled_from(["keep", "drop", "edit", "new"]), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLAN)
def test_every_row_is_accounted_for_once(write, tmp_path, chunks, plan):
    """Rows of the old = kept + superseded + relabelled + removed; of the new = kept + ... + added."""
    rows = [("c1", f"t{place}", f"Text {place} of an owl.") for place in range(len(plan))]
    now = []
    for action, (chunk, name, text) in zip(plan, rows, strict=True):
        if action in ("keep", "new"):
            now.append((chunk, name, text))
        if action == "edit":
            now.append((chunk, f"{name}e", f"{text} Edited."))
        if action == "new":
            now.append((chunk, f"{name}n", f"{text} More."))

    def texts(of):
        frame = pl.DataFrame(of, {"chunk_id": pl.String, "id": pl.String, "text": pl.String}, orient="row")
        return frame.with_columns(request_id=pl.lit("r"), template=pl.lit("paraphrase"), strategy=pl.lit(None))

    old, new = write(tmp_path / "a", chunks, texts(rows)), write(tmp_path / "b", chunks, texts(now))
    counts = count_changes(compare_versions(old, new))
    assert counts["relabelled"] == 0
    assert counts["added"] - counts["removed"] == len(now) - len(rows)
    gone, come = plan.count("drop") + plan.count("edit"), plan.count("new") + plan.count("edit")
    assert counts["superseded"] == min(gone, come), "they share one slot"
    assert (counts["added"], counts["removed"]) == (max(0, come - gone), max(0, gone - come))


def test_the_counts_are_told_in_one_line():
    changes = pl.DataFrame({"change": ["added"] * 1200 + ["superseded"]})
    assert describe_changes(count_changes(changes)) == "1,200 added, 0 removed, 1 superseded, 0 relabelled"
    assert tuple(count_changes(changes)) == CHANGES
