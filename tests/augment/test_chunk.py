"""Chunk: spans cover the document, stay within the budget and keep paragraphs and sentences whole."""

import re
import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.chunk import (
    ChunkSettings,
    TokenCounter,
    chunk_documents,
    chunk_spans,
    find_headings,
    heading_above,
)


class RegexTokenizer:
    """A tokenizer whose tokens are the matches of one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = re.compile(pattern)
        self.longest_call = 0

    def __call__(self, text: str, add_special_tokens: bool, return_offsets_mapping: bool) -> dict[str, list]:
        assert not add_special_tokens
        assert return_offsets_mapping
        self.longest_call = max(self.longest_call, len(text))
        return {"offset_mapping": [match.span() for match in self.pattern.finditer(text)]}

    def count(self, text: str) -> int:
        return len(self.pattern.findall(text))


WORDS = RegexTokenizer(r"\S+|\s+")
# As byte-level tokenizers do: a token begins with the space before its word, long words are many tokens.
SPACED = RegexTokenizer(r" ?\w{1,5}|\s(?! )|.|\n")
# As others do: white space belongs to no token.
GAPPED = RegexTokenizer(r"\w{1,5}|[^\w\s]")
TOKENIZERS = {"words": WORDS, "spaced": SPACED, "gapped": GAPPED}

DOCUMENTS = st.lists(
    st.sampled_from(
        ["owl", "Owl", "otters", "a", ".", "! ", "? ", ", ", " ", "  ", "\n", "\n\n", "\n \n\t", "\u00e9", "\u3000"]
    )
    | st.text(max_size=8),
    max_size=120,
).map("".join)


def spans_of(text: str, max_tokens: int, tokenizer: RegexTokenizer = WORDS) -> list[tuple[int, int]]:
    return chunk_spans(text, TokenCounter(text, tokenizer), max_tokens)


def pieces(text: str, max_tokens: int, tokenizer: RegexTokenizer = WORDS) -> list[str]:
    return [text[start:end] for start, end in spans_of(text, max_tokens, tokenizer)]


def one_document(text: str) -> pl.DataFrame:
    return pl.DataFrame({"document_id": ["d1"], "text": [text]})


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=DOCUMENTS, max_tokens=st.integers(2, 40))
def test_spans_are_ordered_cover_all_but_white_space_and_stay_within_the_budget(name, text, max_tokens):
    tokenizer = TOKENIZERS[name]
    spans = spans_of(text, max_tokens, tokenizer)
    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert text[position:start].strip() == ""
        chunk = text[start:end]
        assert chunk == chunk.strip()
        assert tokenizer.count(chunk) <= max_tokens
        position = end
    assert text[position:].strip() == ""


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(deadline=None)
@given(text=DOCUMENTS.map(lambda text: f"{text}."), place=st.integers(0, 10**6), length=st.integers(0, 10**6))
def test_the_counter_counts_the_tokens_that_overlap_a_span(name, text, place, length):
    start = place % len(text)
    end = start + 1 + length % (len(text) - start)
    tokens = [match.span() for match in TOKENIZERS[name].pattern.finditer(text)]
    overlapping = [token for token in tokens if max(token[0], start) < min(token[1], end)]
    assert TokenCounter(text, TOKENIZERS[name]).count(start, end) == len(overlapping)


def test_a_token_that_begins_with_the_space_before_the_chunk_counts():
    """The cut after a sentence goes through the token " three": the chunk that begins there has five tokens."""
    assert SPACED.count("three four five six seven") == 5
    assert pieces("one two. three four five six seven", 4, SPACED) == ["one two. three", "four five six seven"]
    assert pieces("one two. three four five six seven", 5, SPACED) == ["one two.", "three four five six seven"]


def test_a_text_within_the_budget_is_one_chunk():
    text = "The owl sleeps.\n\nThe otter swims.\n"
    assert pieces(text, 16) == [text.strip()]


@pytest.mark.parametrize("blank", ["\n\n", "\n \t\n", "\n\n\n\n  "])
def test_paragraphs_are_kept_whole_where_they_fit(blank):
    paragraphs = ["The grey owl sleeps. It snores.", "The otter swims.", "An eel hides under one stone.", "Fish."]
    text = blank.join(paragraphs)
    # The break between two paragraphs is one token more.
    assert [WORDS.count(paragraph) for paragraph in paragraphs] == [11, 5, 11, 1]
    assert pieces(text, 11) == paragraphs
    assert pieces(text, 16) == [*paragraphs[:2], blank.join(paragraphs[2:])]
    assert pieces(text, 17) == [blank.join(paragraphs[:2]), blank.join(paragraphs[2:])]
    assert pieces(text, 31) == [text]


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_paragraphs_that_fit_are_packed_in_order_and_never_cut(counts):
    paragraphs = [" ".join(["owl."] * count) for count in counts]
    expected, used = [], 99
    for paragraph, count in zip(paragraphs, counts, strict=True):
        tokens = 2 * count - 1  # words and the spaces between
        if used + 1 + tokens > 16:
            expected.append(paragraph)
            used = tokens
        else:
            expected[-1] += "\n\n" + paragraph
            used += 1 + tokens
    assert pieces("\n\n".join(paragraphs), 16) == expected


def test_a_paragraph_over_the_budget_is_cut_between_sentences():
    text = 'The owl sleeps. "Does it?" It does! The otter swims in the lake. Fish hide.'
    assert pieces(text, 12) == [
        'The owl sleeps. "Does it?"',
        "It does!",
        "The otter swims in the lake.",
        "Fish hide.",
    ]


def test_a_sentence_over_the_budget_is_cut_between_words():
    text = "one two three four five six seven"
    assert pieces(text, 4) == ["one two", "three four", "five six", "seven"]


def test_a_word_over_the_budget_is_cut_inside():
    letters = RegexTokenizer(r"\S|\s+")
    assert pieces("abcdefghij", 4, letters) == ["abcd", "efgh", "ij"]
    assert pieces("ab cdefghij", 4, letters) == ["ab", "cdef", "ghij"]


def test_a_character_of_many_tokens_is_never_cut_and_never_stops_the_chunker():
    def three_tokens_each(text, **_):
        return {"offset_mapping": [(place, place + 1) for place in range(len(text)) for _ in range(3)]}

    assert chunk_spans("abcd", TokenCounter("abcd", three_tokens_each), 6) == [(0, 2), (2, 4)]
    assert chunk_spans("abcd", TokenCounter("abcd", three_tokens_each), 2) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\n", "\u00a0\u3000"])
def test_white_space_alone_gives_no_chunk(text):
    assert pieces(text, 16) == []


def test_chunks_lead_back_to_their_span_of_their_document():
    documents = pl.DataFrame({"document_id": ["d1", "d2"], "text": [" The owl. " * 9, "Otter.\n\n" * 12]})
    chunks = chunk_documents(documents, WORDS, ChunkSettings(max_tokens=16))
    texts = dict(documents.iter_rows())
    assert chunks.height > 4
    for row in chunks.iter_rows(named=True):
        assert row["text"] == texts[row["document_id"]][row["start"] : row["end"]]
        assert row["num_tokens"] == WORDS.count(row["text"])
    assert chunks["chunk_id"].n_unique() == chunks.height
    assert chunks["document_id"].unique(maintain_order=True).to_list() == ["d1", "d2"]


def test_chunk_ids_do_not_depend_on_the_order_or_number_of_documents():
    texts = {"d1": "The owl. " * 9, "d2": "Otter. " * 12}
    both = pl.DataFrame({"document_id": list(texts), "text": list(texts.values())})
    expected = chunk_documents(both, WORDS, ChunkSettings(max_tokens=16))
    reverse = chunk_documents(both.reverse(), WORDS, ChunkSettings(max_tokens=16))
    alone = chunk_documents(both.tail(1), WORDS, ChunkSettings(max_tokens=16))
    assert reverse.sort("document_id", "start").equals(expected.sort("document_id", "start"))
    assert alone.equals(expected.filter(pl.col("document_id") == "d2"))


def test_a_chunk_id_names_its_start_and_its_end():
    documents = one_document("one two three four five six seven eight nine ten")
    long, short = (chunk_documents(documents, WORDS, ChunkSettings(max_tokens=n)) for n in (19, 16))
    assert long.select("start", "end").rows() == [(0, 48)]
    assert short.select("start", "end").rows() == [(0, 39), (40, 48)]
    assert long["chunk_id"][0] not in short["chunk_id"].to_list()


def test_the_same_words_at_two_places_are_two_chunks():
    text = "The owl sleeps in the old oak.\n\n" * 2
    chunks = chunk_documents(one_document(text), WORDS, ChunkSettings(max_tokens=16))
    assert chunks["text"].n_unique() == 1
    assert chunks["chunk_id"].n_unique() == 2


def test_no_document_gives_an_empty_table_with_all_columns():
    nothing = chunk_documents(one_document("Owl.").clear(), WORDS, ChunkSettings())
    something = chunk_documents(one_document("Owl."), WORDS, ChunkSettings())
    assert something.height == 1
    assert nothing.schema == something.schema


def test_a_budget_too_small_to_be_meant_is_refused():
    with pytest.raises(ValueError, match="max_tokens"):
        ChunkSettings(max_tokens=15)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("no paragraph break", "Northernwoodlands greyishowlfamilies sleep. " * 114_000),
        ("no sentence end", "northernwoodlands greyishowlfamilies " * 135_000),
        ("no space", "abcde" * 1_000_000),
        ("line ends and spaces", "owl\n" + " \n" * 2_500_000 + "otter"),
        ("quotes after a stop", "Owl." + '"' * 5_000_000),
    ],
)
def test_five_megabytes_without_a_boundary_take_seconds_and_short_calls_to_the_tokenizer(kind, text):
    assert len(text) > 4_900_000
    tokenizer = RegexTokenizer(r"\w{1,50}|\s+|[^\w\s]{1,50}")
    began = time.process_time()
    counter = TokenCounter(text, tokenizer)
    spans = chunk_spans(text, counter, 256)
    assert time.process_time() - began < 20
    assert tokenizer.longest_call <= 20_000
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split()), kind
    assert all(counter.count(*span) <= 256 for span in spans)


PARTS = st.lists(
    st.sampled_from(
        [
            "The owl sleeps. ",
            "It hunts mice! ",
            "word " * 20,
            "\n\n",
            "# Owls\n",
            "\u732b\u5728\u7761\u3002",
            "x" * 70,
        ]
    ),
    max_size=30,
).map("".join)


@settings(deadline=None, max_examples=60)
@given(text=PARTS, overlap=st.integers(0, 16))
def test_spans_are_exact_cover_all_words_and_overlap_within_the_budget(tiny_tokenizer, text, overlap):
    documents = pl.DataFrame({"document_id": ["d"], "text": [text]})
    rows = chunk_documents(documents, tiny_tokenizer, ChunkSettings(max_tokens=48, overlap_tokens=overlap))
    covered, before = 0, None
    for row in rows.iter_rows(named=True):
        start, end = row["start"], row["end"]
        assert row["text"] == text[start:end]
        assert row["num_tokens"] <= 48
        assert not text[covered : max(start, covered)].strip()
        if before is not None:
            assert before[0] < start
            assert before[1] < end
            assert TokenCounter(text, tiny_tokenizer).count(start, before[1]) <= overlap or start >= before[1]
        covered, before = end, (start, end)
    assert not text[covered:].strip()


def test_a_chunk_begins_with_the_last_sentence_of_the_one_before(tiny_tokenizer):
    text = "The owl sleeps all day. It hunts by night. The heron fishes. It stands very still."
    spans = chunk_spans(text, TokenCounter(text, tiny_tokenizer), 64, 24)
    assert [text[start:end] for start, end in spans] == [
        "The owl sleeps all day.",
        "owl sleeps all day. It hunts by night. The heron fishes.",  # no sentence begins there: at a word
        "The heron fishes. It stands very still.",
    ]


def test_an_overlap_of_more_than_half_is_refused():
    with pytest.raises(ValueError, match="overlap_tokens=20 is more than half of max_tokens=32"):
        ChunkSettings(max_tokens=32, overlap_tokens=20)


def test_a_chunk_knows_the_headings_above_it(tiny_tokenizer):
    text = "# Birds\n\n## Owls ##\n\nThe owl sleeps.\n\n```\n# no heading\n```\n\n### Food\n\nMice.\n\n"
    text += "## Herons\n\nIt fishes."
    headings = find_headings(text)
    assert heading_above(headings, 0) == ""
    assert heading_above(headings, text.index("The owl")) == "Birds > Owls"
    assert heading_above(headings, text.index("# no")) == "Birds > Owls"
    assert heading_above(headings, text.index("Mice")) == "Birds > Owls > Food"
    assert heading_above(headings, text.index("It fishes")) == "Birds > Herons"
    documents = pl.DataFrame({"document_id": ["d"], "text": [text]})
    rows = chunk_documents(documents, tiny_tokenizer, ChunkSettings(max_tokens=32))
    assert rows["heading"][0] == ""
    assert rows["heading"][-1] in ("Birds > Herons", "Birds > Owls > Food")


def test_sentences_of_scripts_without_spaces_and_from_right_to_left_are_not_cut(tiny_tokenizer):
    for sentence in (
        "\u732b\u5728\u7761\u3002",
        "\u05d4\u05d5\u05d0 \u05d9\u05e9\u05df. ",
        "\u0647\u0644 \u0646\u0627\u0645\u061f ",
    ):
        text = sentence * 9
        spans = chunk_spans(text, TokenCounter(text, tiny_tokenizer), 32)
        assert len(spans) > 2
        assert all(len(text[start:end]) % len(sentence) in (0, len(sentence.strip())) for start, end in spans)
