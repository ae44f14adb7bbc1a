"""The dedupe stage between its files: what it reads, what it writes, and what its address depends on."""

from pathlib import Path

import polars as pl
import pytest

from active_reading.flows import stages
from active_reading.flows.settings import Study
from active_reading.flows.steps import Step

TEXTS = {
    "id": list("abcd"),
    "text": ["The owl sleeps", "the OWL sleeps!", "The owl sleeps", "An eel"],
    "chunk_id": list("1123"),
}


@pytest.fixture
def inputs(tmp_path) -> tuple[Step, Step]:
    """The steps of chunks and of kept texts."""
    chunks = pl.DataFrame({"chunk_id": list("123"), "document_id": ["x", "y", "x"]})
    made = []
    for name, rows in (("chunks", chunks), ("kept", pl.DataFrame(TEXTS))):
        folder = tmp_path / name
        folder.mkdir()
        rows.write_parquet(folder / f"{name}.parquet")
        made.append(Step(folder, f"digest of {name}", 0.0, {}))
    return made[0], made[1]


def study(tmp_path: Path, **settings: object) -> Study:
    return Study.model_validate(
        {"name": "s", "output": str(tmp_path / "out"), "corpus": {"path": str(tmp_path)}, "dedupe": settings}
    )


def test_distinct_and_dropped_are_the_rows_apart_and_the_clusters_name_them(inputs, tmp_path):
    step = stages.dedupe(study(tmp_path), *inputs)
    distinct, dropped, clusters = (
        pl.read_parquet(step.folder / f"{name}.parquet") for name in ("distinct", "dropped", "clusters")
    )
    assert distinct.equals(pl.DataFrame(TEXTS)[[1, 3]])
    assert dropped.drop("duplicate_of", "similarity").equals(pl.DataFrame(TEXTS)[[0, 2]])
    assert dropped["duplicate_of"].to_list() == ["b", "b"]
    assert clusters.rows() == [("b", "a", 1.0), ("b", "b", 1.0), ("b", "c", 1.0)]
    assert step.summary == {"kept": 4, "distinct": 2}


def test_a_document_is_known_by_its_chunks(inputs, tmp_path):
    step = stages.dedupe(study(tmp_path, scope="document"), *inputs)
    assert pl.read_parquet(step.folder / "distinct.parquet").equals(pl.DataFrame(TEXTS)[[1, 2, 3]])


def test_the_embedding_model_is_part_of_the_address_by_its_weights(inputs, tmp_path, tiny_model):
    plain = stages.dedupe(study(tmp_path), *inputs)
    semantic = stages.dedupe(study(tmp_path, semantic_model=str(tiny_model), semantic_threshold=1), *inputs)
    linked = tmp_path / "elsewhere"
    linked.symlink_to(tiny_model)
    again = stages.dedupe(study(tmp_path, semantic_model=str(linked), semantic_threshold=1), *inputs)
    assert plain.folder != semantic.folder == again.folder


def test_an_embedding_model_that_is_not_there_is_refused_in_one_line(inputs, tmp_path):
    with pytest.raises(ValueError, match=r"model '\./none' does not exist: give a folder"):
        stages.dedupe(study(tmp_path, semantic_model="./none"), *inputs)
