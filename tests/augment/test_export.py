"""Export: a data set that `datasets` opens as it is, in views that hold the same rows."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from active_reading.augment import export
from active_reading.augment.export import COLUMNS, CONFIGS, PAIR, ExportSettings, as_messages, as_prompts, make_rows

HEADER = "configs:\n" + "".join(
    f"- config_name: {config}\n  data_files: data/{config}/*.parquet\n  default: {str(config == 'text').lower()}\n"
    for config in CONFIGS
)
NOTHING = pl.DataFrame(schema={"id": pl.String, "template": pl.String})
ANSWERS = {"questions": "questions", "paraphrase": "text", "apply_strategy": "text"}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No look-up on the hub: any connection would be a failure."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return str(tmp_path / "cache")


@pytest.fixture
def rows(chunks, distinct, tokenizer) -> pl.DataFrame:
    return pl.concat(make_rows(chunks, distinct.lazy(), NOTHING, ANSWERS, tokenizer))


@pytest.fixture
def exported(write, tmp_path) -> Path:
    folder = write(tmp_path / "dataset")
    (folder / "README.md").write_text(f"---\n{HEADER}---\n")
    return folder


def test_rows_are_the_chunks_and_then_the_generated_texts_each_with_its_origin(rows, chunks, distinct):
    assert tuple(rows.columns) == COLUMNS
    places = [
        "id",
        "document_id",
        "chunk_id",
        "source",
        "title",
        "start",
        "end",
        "template",
        "strategy",
        "request_id",
    ]
    assert rows.select(places).rows() == [
        ("c1", "d1", "c1", "owl.md", "Owls", 0, 26, "chunk", None, None),
        ("c2", "d1", "c2", "owl.md", "Owls", 28, 62, "chunk", None, None),
        ("c3", "d2", "c3", "deep/eel.txt", "eel", 0, 13, "chunk", None, None),
        ("t1", "d2", "c3", "deep/eel.txt", "eel", 0, 13, "questions", None, "r1"),
        ("t2", "d1", "c1", "owl.md", "Owls", 0, 26, "paraphrase", None, "r2"),
        ("t3", "d1", "c1", "owl.md", "Owls", 0, 26, "apply_strategy", "List every tree", "r3"),
    ]
    assert rows["text"].to_list() == chunks["text"].to_list() + distinct["text"].to_list()


def test_question_and_answer_stand_apart_for_templates_that_ask(chunks, distinct, tokenizer):
    rows = pl.concat(make_rows(chunks, distinct.lazy(), NOTHING, ANSWERS, tokenizer))
    assert rows.filter(id="t1").select("question", "answer").row(0) == ("What hides?", "An eel")
    assert rows.filter(pl.col("id") != "t1").select("question", "answer").null_count().row(0) == (5, 5)
    # A text that only looks like a question is no pair.
    rows = pl.concat(make_rows(chunks, distinct.lazy(), NOTHING, {"questions": "text"}, tokenizer))
    assert rows["question"].null_count() == rows.height


LINE = st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1)


@given(question=LINE, answer=LINE)
def test_every_pair_that_the_filter_writes_is_taken_apart_again(question, answer):
    text = pl.Series([f"Question: {question}\nAnswer: {answer}"])
    assert text.str.extract_groups(PAIR).struct.unnest().row(0) == (question, answer)


def test_the_token_counts_are_those_of_the_tokenizer_without_its_special_tokens(rows, tokenizer):
    assert rows["num_tokens"].to_list() == [6, 7, 3, 6, 10, 4]
    assert len(tokenizer("owl")["input_ids"]) == 2
    assert rows.schema["num_tokens"] == pl.Int32


UNTYPED = {"id": [], "request_id": [], "chunk_id": [], "template": [], "strategy": [], "text": []}


@pytest.mark.parametrize("kind", ["no text", "no text and no types", "no strategy"])
def test_columns_without_any_value_keep_the_types_of_the_data_set(write, tmp_path, distinct, kind):
    texts = {
        "no text": distinct.clear(),
        "no text and no types": pl.DataFrame(UNTYPED),
        "no strategy": distinct.with_columns(strategy=pl.lit(None)),
    }[kind]
    some, all_ = write(tmp_path / "some", distinct=texts), write(tmp_path / "all")
    for config in CONFIGS:
        assert pl.read_parquet_schema(*some.glob(f"data/{config}/*")) == pl.read_parquet_schema(
            *all_.glob(f"data/{config}/*")
        )


def test_the_messages_are_a_question_and_its_answer_or_an_instruction_that_names_the_document(rows, tokenizer):
    view = as_messages(rows, "Tell of {title} ({title})", tokenizer)
    said = {
        row["id"]: [(turn["role"], turn["content"]) for turn in row["messages"]]
        for row in view.iter_rows(named=True)
    }
    texts = dict(rows.select("id", "text").iter_rows())
    assert said["t1"] == [("user", "What hides?"), ("assistant", "An eel")]
    assert said["c3"] == [("user", "Tell of eel (eel)"), ("assistant", texts["c3"])]
    assert said["t3"] == [("user", "Tell of Owls (Owls)\nList every tree"), ("assistant", texts["t3"])]
    assert dict(view.select("id", "num_tokens").iter_rows()) == {
        "c1": 4 + 6, "c2": 4 + 7, "c3": 4 + 3, "t1": 2 + 2, "t2": 4 + 10, "t3": 7 + 4
    }  # fmt: skip


def test_prompt_and_completion_are_read_as_one_string(rows, tokenizer):
    view = as_prompts(rows, "Tell of {title}", tokenizer)
    together = dict(view.select("id", pl.concat_str("prompt", "completion")).iter_rows())
    texts = dict(rows.select("id", "text").iter_rows())
    assert together["t1"] == texts["t1"], "nothing is lost, nothing is added"
    assert view.filter(id="t1").select("prompt", "completion").row(0) == (
        "Question: What hides?\nAnswer:",
        " An eel",
    )
    assert together["c1"] == f"Tell of Owls\n\n{texts['c1']}"
    assert together["t3"] == f"Tell of Owls\nList every tree\n\n{texts['t3']}"
    counted = {key: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for key, text in together.items()}
    assert dict(view.select("id", "num_tokens").iter_rows()) == counted


def test_an_instruction_that_names_no_document_is_refused():
    with pytest.raises(ValidationError, match="must hold {title}"):
        ExportSettings(instruction="Tell me more")


@pytest.mark.parametrize("config", CONFIGS)
def test_load_dataset_opens_every_config(exported, offline, config):
    loaded = datasets.load_dataset(str(exported), config, cache_dir=offline)
    assert list(loaded) == ["train"]
    rows = pl.read_parquet(exported / "data" / config / "*.parquet")
    assert loaded["train"].to_list() == rows.rows(named=True)
    assert rows["id"].to_list() == ["c1", "c2", "c3", *(["t1", "t2", "t3"] if config != "chunks" else [])]


def test_the_default_is_the_text_config_and_other_files_beside_the_data_do_not_disturb(exported, offline):
    (exported / "manifest.json").write_text(json.dumps({"files": {}}))
    (exported / "study.yaml").write_text("license: null\n")
    (exported / "templates").mkdir()
    (exported / "templates" / "a.j2").write_text("{{ text }}")
    pl.DataFrame({"change": ["added"]}).write_parquet(exported / "changes.parquet")
    loaded = datasets.load_dataset(str(exported), split="train", cache_dir=offline)
    assert loaded.config_name == "text"
    assert loaded.num_rows == 6
    assert sorted(datasets.get_dataset_config_names(str(exported))) == sorted(CONFIGS)


def test_load_dataset_opens_the_parquet_files_themselves(exported, offline):
    files = str(exported / "data" / "text" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=offline)
    assert loaded["id"][:] == ["c1", "c2", "c3", "t1", "t2", "t3"]
    assert loaded.features["strategy"].dtype.endswith("string")


def test_rows_are_cut_into_shards_whose_names_count_them(write, tmp_path, monkeypatch):
    whole = write(tmp_path / "whole")
    monkeypatch.setattr(export, "BATCH_ROWS", 2)
    monkeypatch.setattr(export, "SHARD_BYTES", 1)
    folder = write(tmp_path / "cut")
    for config in CONFIGS:
        names = [path.name for path in sorted((folder / "data" / config).iterdir())]
        assert len(names) > 1
        assert names == [f"train-{number:05d}-of-{len(names):05d}.parquet" for number in range(len(names))]
        parts = [pl.read_parquet(folder / "data" / config / name) for name in names]
        assert all(part.height for part in parts), "no shard is empty"
        assert pl.concat(parts).equals(pl.read_parquet(whole / "data" / config / "*.parquet"))


def test_what_was_removed_is_in_no_config_but_its_chunk_stays_the_origin_of_other_texts(write, tmp_path):
    folder = write(tmp_path, removed=["c2", "t3"])
    for config in CONFIGS:
        ids = pl.read_parquet(folder / "data" / config / "*.parquet")["id"].to_list()
        assert ids == ["c1", "c3", *(["t1", "t2"] if config != "chunks" else [])]
    other = write(tmp_path / "other", removed=["c1"])
    assert "t2" in pl.read_parquet(other / "data/text/*.parquet")["id"].to_list()


def test_a_title_that_was_found_is_hidden_in_every_row_of_its_document(chunks, distinct, tokenizer):
    found = pl.DataFrame({"id": ["d1"], "template": ["title"]})
    rows = pl.concat(make_rows(chunks, distinct.lazy(), found, ANSWERS, tokenizer))
    assert rows["title"].to_list() == ["d1", "d1", "eel", "eel", "d1", "d1"]
    assert "Owls" not in str(as_messages(rows, "Tell of {title}", tokenizer).to_dicts())


def test_the_module_tells_every_column():
    told = set(re.findall(r"`(\w+)`", str(export.__doc__)))
    assert set(COLUMNS) | set(CONFIGS) <= told
