"""Export: a data set that `datasets` opens as it is, and a card that says how it was made."""

import json
import socket
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from active_reading.augment.export import COLUMNS, ExportSettings, build_rows, make_card, write_dataset
from active_reading.prompts.render import load_template

CHUNKS = pl.DataFrame(
    {
        "chunk_id": ["c1", "c2", "c3"],
        "document_id": ["d1", "d1", "d2"],
        "source": ["owl.md", "owl.md", "deep/eel.txt"],
        "text": [
            "The owl sleeps in the oak.",
            '\u00c9lodie\'s owl \U0001f989 wakes.\n\n"Hoo," it says.',
            "An eel hides.",
        ],
        "title": ["Owls", "Owls", "eel"],
        "num_tokens": [99, 99, 99],
    }
)
DISTINCT = pl.DataFrame(
    {
        "id": ["t1", "t2", "t3"],
        "request_id": ["r1", "r2", "r3"],
        "chunk_id": ["c3", "c1", "c1"],
        "template": ["questions", "paraphrase", "apply_strategy"],
        "strategy": [None, None, "List every tree"],
        "text": [
            "Question: What hides?\nAnswer: An eel",
            "In the oak sleeps \u0141ukasz; {{ x }} | <b>",
            "Oak: a tree\t\u2028.",
        ],
    }
)
REMOVED = pl.DataFrame({"id": ["c2", "t3"], "ngram": ["where is the owl", "where is the owl"]})
CHECKED = {"gold": {"texts": 7, "removed": 1, "removed_chunks": 2}}
FUNNEL = [
    {"template": "paraphrase", "planned": 6, "accepted": 4, "rejected": 1, "failed": 1, "texts": 6, "kept": 3}
    | {"distinct": 2, "tokens": 310, "dropped": {"truncated": 1, "failed": 1, "copy": 1, "duplicate": 1}},
    {"template": "questions", "planned": 3, "accepted": 3, "rejected": 0, "failed": 0, "texts": 9, "kept": 9}
    | {"distinct": 9, "tokens": 120, "dropped": {}},
]
GENERATOR = {"model": "tiny", "revision": "abc123", "engine": "vllm", "temperature": 0.7, "top_p": 0.95, "seed": 5}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A real fast tokenizer of words and marks, which adds an opening token unless told not to."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", bos_token="[BOS]")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No look-up on the hub: any connection would be a failure."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return str(tmp_path / "cache")


def card(rows: pl.DataFrame, **settings: Any) -> str:
    sources = {name: load_template(name).source for name in ("paraphrase", "questions")}
    return make_card("A study: 1", rows, FUNNEL, GENERATOR, sources, ExportSettings(**settings), CHECKED)


@pytest.fixture
def exported(tmp_path, tokenizer) -> tuple[pl.DataFrame, Path]:
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    folder = tmp_path / "dataset"
    write_dataset(rows, card(rows), folder)
    return rows, folder


def test_rows_are_the_chunks_and_then_the_generated_texts_each_with_its_origin(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    assert tuple(rows.columns) == COLUMNS
    assert rows.select("id", "document_id", "chunk_id", "source", "template", "strategy").rows() == [
        ("c1", "d1", "c1", "owl.md", "chunk", None),
        ("c2", "d1", "c2", "owl.md", "chunk", None),
        ("c3", "d2", "c3", "deep/eel.txt", "chunk", None),
        ("t1", "d2", "c3", "deep/eel.txt", "questions", None),
        ("t2", "d1", "c1", "owl.md", "paraphrase", None),
        ("t3", "d1", "c1", "owl.md", "apply_strategy", "List every tree"),
    ]
    assert rows["text"].to_list() == CHUNKS["text"].to_list() + DISTINCT["text"].to_list()


def test_the_token_counts_are_those_of_the_tokenizer_without_its_special_tokens(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    assert rows["num_tokens"].to_list() == [6, 7, 3, 6, 10, 4]
    assert len(tokenizer("owl")["input_ids"]) == 2
    assert rows.schema["num_tokens"] == pl.Int32


UNTYPED = {"id": [], "chunk_id": [], "template": [], "strategy": [], "text": []}


@pytest.mark.parametrize(
    "distinct",
    [DISTINCT.clear(), pl.DataFrame(UNTYPED), DISTINCT.with_columns(strategy=pl.lit(None))],
    ids=["no text", "no text and no types", "no strategy"],
)
def test_columns_without_any_value_keep_the_types_of_the_data_set(tokenizer, distinct):
    rows = build_rows(CHUNKS, distinct, REMOVED.clear(), tokenizer)
    assert rows.height == 3 + distinct.height
    assert rows.schema == build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer).schema


def test_load_dataset_opens_the_folder_and_its_default_is_the_text_config(exported, offline):
    rows, folder = exported
    loaded = datasets.load_dataset(str(folder), cache_dir=offline)
    assert list(loaded) == ["train"]
    assert loaded["train"].config_name == "text"
    assert loaded["train"].to_list() == rows.rows(named=True)


def test_load_dataset_opens_the_chunks_alone(exported, offline):
    rows, folder = exported
    loaded = datasets.load_dataset(str(folder), "chunks", split="train", cache_dir=offline)
    assert loaded.to_list() == rows.head(3).rows(named=True)
    assert loaded["text"][:] == CHUNKS["text"].to_list()


def test_the_two_configs_are_all_there_is(exported, offline):
    _, folder = exported
    assert sorted(datasets.get_dataset_config_names(str(folder))) == ["chunks", "text"]


def test_load_dataset_opens_the_parquet_files_themselves(exported, offline):
    rows, folder = exported
    files = str(folder / "data" / "text" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=offline)
    assert loaded["text"][:] == rows["text"].to_list()
    assert loaded["num_tokens"][:] == rows["num_tokens"].to_list()
    assert loaded.features["strategy"].dtype.endswith("string")


def test_other_files_beside_the_data_do_not_disturb(exported, offline):
    rows, folder = exported
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    (folder / "config.yaml").write_text("license: null\n")
    assert datasets.load_dataset(str(folder), split="train", cache_dir=offline).num_rows == rows.height


def test_a_data_set_without_any_generated_text_opens_too(tmp_path, tokenizer, offline):
    rows = build_rows(CHUNKS, DISTINCT.clear(), REMOVED.clear(), tokenizer)
    write_dataset(rows, card(rows), tmp_path / "dataset")
    loaded = datasets.load_dataset(str(tmp_path / "dataset"), split="train", cache_dir=offline)
    assert loaded.to_list() == rows.rows(named=True)


def test_the_header_of_the_card_is_what_the_hub_reads(exported):
    _, folder = exported
    read = DatasetCard.load(folder / "README.md")
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert header == {
        "pretty_name": "A study: 1",
        "language": "en",
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "active-reading"],
        "configs": [
            {"config_name": "text", "data_files": "data/text/*.parquet", "default": True},
            {"config_name": "chunks", "data_files": "data/chunks/*.parquet"},
        ],
    }
    assert read.data.pretty_name == "A study: 1"
    assert read.data.license is None


def test_the_licence_is_stated_where_it_is_given_and_never_assumed(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    assert "license" not in DatasetCard(card(rows)).data.to_dict()
    assert "Licence: not stated; it follows the documents." in card(rows)
    stated = card(rows, license="cc-by-4.0")
    assert DatasetCard(stated).data.license == "cc-by-4.0"
    assert "Licence: cc-by-4.0." in stated


def test_a_language_that_yaml_could_take_for_something_else_stays_a_language(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    assert DatasetCard(card(rows, language="no")).data.language == "no"


def test_the_card_says_how_much_there_is(tokenizer):
    text = card(build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer))
    assert "3 chunks of 2 documents, and 3 texts that a language model wrote about them (36 tokens in all)" in text
    assert "| template | planned | accepted | texts | kept | distinct | tokens |\n| --- | --- |" in text
    assert "| paraphrase | 6 | 4 | 6 | 3 | 2 | 310 |\n| questions | 3 | 3 | 9 | 9 | 9 | 120 |\n" in text
    assert "- `paraphrase`: copy 1, duplicate 1, failed 1, truncated 1\n" in text
    assert "- `questions`" not in text


def test_the_card_says_when_nothing_was_dropped(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    text = make_card("A study", rows, FUNNEL[1:], GENERATOR, {}, ExportSettings(), CHECKED)
    assert "Nothing was dropped." in text
    assert "Dropped, by reason" not in text


def test_the_card_names_the_model_the_sampling_and_every_template_in_full(tokenizer):
    text = card(build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer))
    for name, value in GENERATOR.items():
        assert f"\n- {name}: {value}\n" in text
    for name in ("paraphrase", "questions"):
        assert f"### {name}\n\n````jinja\n{load_template(name).source.strip()}\n````\n" in text


@pytest.mark.parametrize("title", ["A study: 1", "no", "- [x] \"quoted\" 'twice'", "\u00c9lodie \U0001f989", "# 1"])
def test_every_title_gives_a_card_whose_header_can_be_read(tokenizer, title):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED.clear(), tokenizer)
    text = make_card(title, rows, FUNNEL, GENERATOR, {}, ExportSettings(), CHECKED)
    assert DatasetCard(text).data.pretty_name == title
    assert f"\n# {title}\n" in text


def test_what_decontamination_removed_is_in_no_config_but_its_chunk_stays_the_origin_of_other_texts(
    tmp_path, tokenizer
):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED, tokenizer)
    assert rows["id"].to_list() == ["c1", "c3", "t1", "t2"]
    texts_of_a_removed_chunk = build_rows(CHUNKS, DISTINCT, pl.DataFrame({"id": ["c1"]}), tokenizer)
    assert texts_of_a_removed_chunk["id"].to_list() == ["c2", "c3", "t1", "t2", "t3"]
    write_dataset(rows, card(rows), tmp_path)
    assert pl.read_parquet(tmp_path / "data/chunks/*.parquet")["id"].to_list() == ["c1", "c3"]


def test_the_card_says_what_was_checked_and_removed_and_when_nothing_was_checked(tokenizer):
    rows = build_rows(CHUNKS, DISTINCT, REMOVED, tokenizer)
    assert "## Decontamination\n\nRemoved is every text with 13 words in a row" in card(rows)
    assert "chunks removed |\n| --- | --- | --- | --- |\n| gold | 7 | 1 | 2 |\n" in card(rows)
    off = make_card("A study", rows, FUNNEL, GENERATOR, {}, ExportSettings(), None)
    assert "## Decontamination\n\nOff: texts may hold questions" in off
