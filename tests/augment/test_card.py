"""The card: what it says, that the hub can read its header, and that no word of a user can break it."""

import dataclasses
import re
from typing import Any

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from active_reading.augment.card import CardFacts, list_sources, make_card
from active_reading.augment.export import CONFIGS, ExportSettings
from active_reading.prompts.render import load_template

CHECKED = {"gold": {"texts": 7, "removed": 1, "removed_chunks": 2, "hidden_titles": 3}}
FUNNEL = [
    {"template": "paraphrase", "planned": 6, "accepted": 4, "rejected": 1, "failed": 1, "texts": 6, "kept": 3}
    | {"distinct": 2, "tokens": 310, "dropped": {"truncated": 1, "failed": 1, "copy": 1, "duplicate": 1}},
    {"template": "questions", "planned": 3, "accepted": 3, "rejected": 0, "failed": 0, "texts": 9, "kept": 9}
    | {"distinct": 9, "tokens": 120, "dropped": {}},
]
GENERATOR = {"model": "tiny", "revision": "abc123", "engine": "vllm", "temperature": 0.7, "top_p": 0.95, "seed": 5}
DOCUMENTS = pl.DataFrame(
    {
        "document_id": ["d1", "d2"],
        "source": ["news/owl.md", "deep/eel.txt"],
        "title": ["Owls", "eel"],
        "num_chars": [62, 13],
    }
)
ROWS = pl.LazyFrame(
    {"document_id": ["d1", "d1", "d2"], "num_tokens": [10, 20, 6]},
    {"document_id": pl.String, "num_tokens": pl.Int32},
)
FACTS = CardFacts(
    title="A study: 1",
    made_with="active-reading 9.9",
    generator=GENERATOR,
    uses=[
        {
            "template": "paraphrase",
            "replicates": 2,
            "attempts": None,
            "max_tokens": 64,
            "num_items": 4,
            "applies": None,
        }
    ],
    templates={name: load_template(name).source for name in ("paraphrase", "questions")},
    sources=list_sources(DOCUMENTS, ROWS, ExportSettings()),
    counts=[
        {"template": "chunk", "rows": 1, "tokens": 6},
        {"template": "paraphrase", "rows": 2, "tokens": 30},
    ],
    funnel=FUNNEL,
    faithfulness={"paraphrase": {"checked": 4, "grounded": 0.75}},
    judge={},
    diversity=[
        {"template": "chunk", "sample": 1, "distinct": 1.0, "copied": None, "copied_error": None},
        {"template": "paraphrase", "sample": 2, "distinct": 0.5, "copied": 0.25, "copied_error": 0.125},
    ],
    coverage=[
        {"source": "a.txt", "sentences": 4, "sentences_mentioned": 3, "numbers": 2, "numbers_mentioned": 0},
        {"source": "b.txt", "sentences": 4, "sentences_mentioned": 1, "numbers": 0, "numbers_mentioned": 0},
    ],
    decontamination=CHECKED,
)


def card(facts: dict[str, Any] | None = None, **settings: Any) -> str:
    return make_card(dataclasses.replace(FACTS, **facts or {}), ExportSettings(**settings))


def with_licences(documents: pl.DataFrame = DOCUMENTS, **settings: Any) -> str:
    sources = list_sources(documents, ROWS, ExportSettings(**settings))
    return card({"sources": sources}, **settings)


def header(text: str) -> dict[str, Any]:
    return DatasetCard(text).data.to_dict()


def test_the_header_is_what_the_hub_reads():
    configs = [{"config_name": config, "data_files": f"data/{config}/*.parquet"} for config in CONFIGS]
    configs[0]["default"] = True
    assert header(card()) == {
        "pretty_name": "A study: 1",
        "language": "en",
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "annotations_creators": ["machine-generated"],
        "size_categories": ["n<1K"],
        "tags": ["synthetic", "active-reading"],
        "configs": configs,
    }


def test_a_licence_is_stated_where_it_is_given_and_never_assumed():
    assert "license" not in header(with_licences())
    assert "Licence: not stated; it follows the documents." in with_licences()
    assert "| not stated | 2 | 3 | 36 |" in with_licences()
    stated = with_licences(license="CC-BY-4.0")
    assert header(stated)["license"] == "cc-by-4.0"
    assert "Licence: CC-BY-4.0." in stated
    assert "| CC-BY-4.0 | 2 | 3 | 36 |" in stated


def test_documents_may_have_licences_of_their_own_and_the_first_pattern_wins():
    licences = {"news/*": "mit", "*": "cc0-1.0"}
    both = with_licences(licenses=licences, license="apache-2.0")
    assert header(both)["license"] == ["mit", "cc0-1.0"]
    assert "| `news/owl.md` | Owls | mit | 62 | 2 | 30 |" in both
    one = with_licences(licenses={"news/*": "mit"})
    assert "license" not in header(one), "the licence of some is not the licence of all"
    assert "Licence: mit; of some documents not stated." in one
    with pytest.raises(ValueError, match=r"export.licenses: 'news' fits no document: give a path below"):
        with_licences(licenses={"news": "mit"})


@pytest.mark.parametrize(
    ("documents", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**8, "n>10M")]
)
def test_the_size_is_told_in_the_hubs_classes(documents, size):
    assert header(card({"counts": [{"template": "chunk", "rows": documents, "tokens": 1}]}))["size_categories"] == [
        size
    ]


@pytest.mark.parametrize(
    "word",
    [
        "no",
        "null",
        "~",
        "1e3",
        "0o17",
        "0x1F",
        "1_000",
        "2026-11-25",
        "12:30",
        "=",
        "<<",
        "- a",
        "# 1",
        "{a}",
        "a: b",
    ]
    + ["\u00c9lodie \U0001f989", "- [x] \"quoted\" 'twice'", "\u2028", "%TAG", "@a", "`a`", "---", "...", " a "],
)
def test_words_that_yaml_would_take_for_something_else_stay_words(word):
    text = card({"title": word}, language=word)
    assert header(text)["pretty_name"] == header(text)["language"] == word
    lines = text.split("---\n")[1].splitlines()
    # In double quotes they are strings in YAML 1.2 as well, which the hub reads: there 0o17 and 1e3 are numbers.
    assert sum(bool(re.fullmatch(r'(pretty_name|language): ".*"', line)) for line in lines) == 2


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
def test_no_title_or_licence_breaks_the_header(title, licence):
    sources = FACTS.sources.with_columns(license=pl.lit(licence))
    text = card({"title": title, "sources": sources})
    values = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert (values["pretty_name"], values["license"]) == (title, licence.lower())


def test_paths_and_titles_stay_within_their_cell():
    documents = DOCUMENTS.with_columns(
        source=pl.Series(["a|b`c.md", "d.md"]), title=pl.Series(["x | y\n# <b>", "[l](u)"])
    )
    text = with_licences(documents)
    assert "| `` a\\|b`c.md `` | x \\| y \\# \\<b\\> | not stated | 62 | 2 | 30 |\n" in text
    assert "| `d.md` | \\[l\\](u) |" in text


def test_a_long_list_of_documents_is_cut_and_says_where_the_rest_is():
    many = pl.concat([FACTS.sources] * 20)
    assert card({"sources": many}).count("| `news/owl.md` |") == 10
    assert "And 20 more: `sources.parquet`." in card({"sources": many})


def test_the_card_says_how_much_there_is_and_what_became_of_the_rest():
    text = card()
    assert "1 chunks of 2 documents, and 2 texts that a language model wrote about them (36 tokens in all)" in text
    assert "| template | rows | tokens |\n| --- | --- | --- |\n| chunk | 1 | 6 |\n| paraphrase | 2 | 30 |\n" in text
    assert "| paraphrase | 6 | 4 | 1 | 1 | 6 | 3 | 2 | 310 | 0.667 |\n" in text
    assert "| questions | 3 | 3 | 0 | 0 | 9 | 9 | 9 | 120 | 1.000 |\n" in text
    assert "- `paraphrase`: copy 1, duplicate 1, failed 1, truncated 1\n" in text
    assert "- `questions`" not in text
    assert "Nothing was dropped." not in text
    assert "Nothing was dropped." in card({"funnel": FUNNEL[1:]})


def test_the_card_has_the_figures_of_faithfulness_and_diversity():
    assert "| paraphrase | 4 | 0.750 | 2 | 0.500 | 0.250 +- 0.125 |" in card()
    assert "| chunk |  |  | 1 | 1.000 |  |" in card()


def test_the_card_names_the_model_the_sampling_and_every_template_in_full():
    text = card()
    for name, value in GENERATOR.items():
        assert f"\n- {name}: {value}\n" in text
    assert "| paraphrase | 2 |  | 64 | 4 |  |" in text
    for name in ("paraphrase", "questions"):
        assert f"### {name}\n\n````jinja\n{load_template(name).source.strip()}\n````\n" in text
    assert "`active-reading export study.yaml` of active-reading 9.9" in text


def test_a_template_with_fences_of_its_own_is_fenced_by_a_longer_one():
    text = card({"templates": {"odd": "a\n`````\nb"}})
    assert "### odd\n\n``````jinja\na\n`````\nb\n``````\n" in text


def test_the_card_says_what_was_checked_and_removed_and_when_nothing_was_checked():
    assert "## Decontamination\n\nRemoved is every text with 13 words in a row" in card()
    assert "titles hidden |\n| --- | --- | --- | --- | --- |\n| gold | 7 | 1 | 2 | 3 |\n" in card()
    assert "## Decontamination\n\nOff: texts may hold questions" in card({"decontamination": None})


def test_the_card_says_where_it_cannot_be_made_again_from_itself_alone():
    assert "without it such texts come back" in card({"earlier": True})
    assert "dedupe.earlier" not in card()


def test_the_card_says_what_no_text_mentions_and_where_most_is_missing():
    text = card()
    assert "mention 0.500 of the documents' 8 sentences and 0.000 of their 2 numbers" in text
    assert text.index("| `b.txt` | 4 | 1 | 0 | 0 |") < text.index("| `a.txt` | 4 | 3 | 2 | 0 |")


def test_the_card_says_what_the_judge_is_worth():
    statements = {
        **{"texts": 50, "fallen": 7, "unjudged": 0, "planted": 40, "threshold": 0.2, "recall": 0.8},
        **{"recall_by_kind": {"names": 0.9, "swapped": 0.7}, "false_rejects": 0.05, "precision": 0.94, "auc": 0.91},
    }
    figures = {"statements": statements, "answers": {"texts": 30, "fallen": 4, "unjudged": 1}}
    card = make_card(dataclasses.replace(FACTS, judge=figures), ExportSettings())
    assert "7 of 50 texts fell" in card
    assert "names 0.90, swapped 0.70" in card
    assert "precision 0.94" in card
    assert "4 of 30 questions" in card
    assert "A model read" not in make_card(FACTS, ExportSettings())
