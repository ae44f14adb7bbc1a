"""The funnel: every request and every text is counted once, under what became of it."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.funnel import (
    REJECTION,
    build_funnel,
    check_requests,
    describe_requests,
    rejection_counts,
    request_counts,
)
from active_reading.augment.ledger import SCHEMA


def requests(*rows: tuple[str, str, str, str | None, int]) -> pl.DataFrame:
    """(template, text, finish_reason, error, completion_tokens), with the types of the ledger."""
    names = ("template", "text", "finish_reason", "error", "completion_tokens")
    tokens = {"prompt_tokens": 10, "cached_tokens": 6}
    made = [dict(zip(names, row, strict=True)) | tokens for row in rows]
    return pl.DataFrame(made, schema={n: SCHEMA[n] for n in (*names, *tokens)})


def texts(column: str, *rows: tuple[str, str | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"template": pl.String, column: pl.String}, orient="row")


@pytest.mark.parametrize(
    ("text", "finish_reason", "error", "status", "reason"),
    [
        ("The owl sleeps.", "stop", None, "accepted", None),
        ("The owl sl", "length", None, "rejected", "truncated"),
        ("owl owl owl owl", "repetition", None, "rejected", "repetition"),
        ("", "length", None, "rejected", "truncated"),
        ("", "stop", None, "rejected", "empty"),
        (" \n", "stop", None, "rejected", "empty"),
        ("", "abort", None, "rejected", "truncated"),
        ("", "too_long", "no room", "rejected", "too_long"),
        ("", "error", "broken", "failed", None),
        ("The owl", "length", "broken", "failed", None),
    ],
)
def test_a_request_is_accepted_failed_or_rejected_for_a_reason(text, finish_reason, error, status, reason):
    rows = requests(("paraphrase", text, finish_reason, error, 3))
    assert request_counts(rows, 1) == {"planned": 1, "accepted": 0, "rejected": 0, "failed": 0} | {status: 1}
    assert rejection_counts(rows) == ({reason: 1} if reason else {})
    assert rows.select(REJECTION.alias("reason"))["reason"].to_list() == [reason]


ROWS = st.tuples(
    st.just("paraphrase"),
    st.sampled_from(["", " ", "The owl."]),
    st.sampled_from(["stop", "length", "error", "too_long"]),
    st.sampled_from([None, "no room"]),
    st.integers(0, 9),
)


@settings(deadline=None)
@given(rows=st.lists(ROWS, max_size=20))
def test_the_parts_add_up_to_the_plan(rows):
    counts = request_counts(requests(*rows), len(rows))
    check_requests(counts)
    assert counts["rejected"] == sum(rejection_counts(requests(*rows)).values())
    assert counts["failed"] == sum(bool(error) and reason != "too_long" for _, _, reason, error, _ in rows)


@pytest.mark.parametrize("num_planned", [1, 3])
def test_a_request_too_many_or_too_few_is_noticed(num_planned):
    rows = requests(("paraphrase", "The owl.", "stop", None, 3), ("paraphrase", "", "error", "broken", 0))
    with pytest.raises(RuntimeError, match=f"requests do not add up: {{'planned': {num_planned}, 'accepted': 1"):
        check_requests(request_counts(rows, num_planned))


def test_one_line_tells_what_became_of_the_requests():
    counts = {"planned": 9, "accepted": 6, "rejected": 2, "failed": 1}
    assert (
        describe_requests(counts, {"truncated": 2})
        == "planned 9 = accepted 6 + rejected 2 (truncated 2) + failed 1"
    )
    counts |= {"planned": 7, "rejected": 0}
    assert describe_requests(counts, {}) == "planned 7 = accepted 6 + rejected 0 + failed 1"


def test_each_template_has_a_line_in_the_order_of_first_use():
    generations = requests(
        ("questions", "Q: Who?", "stop", None, 30),
        ("paraphrase", "The owl.", "stop", None, 5),
        ("questions", "Q: Wh", "length", None, 64),
        ("paraphrase", "", "error", "no room", 0),
        ("propose_strategies", "## List the owls", "stop", None, 8),
    )
    filtered = texts(
        "reason",
        ("questions", None),
        ("questions", None),
        ("questions", None),
        ("questions", None),
        ("questions", "truncated"),
        ("questions", "ungrounded"),
        ("questions", "ungrounded"),
        ("paraphrase", None),
        ("paraphrase", "failed"),
    )
    marked = texts(
        "duplicate_of",
        ("questions", None),
        ("questions", None),
        ("questions", "t1"),
        ("questions", "t1"),
        ("paraphrase", None),
    )
    removed = texts("ngram", ("questions", "who is the owl"))
    counts = {"planned": 2, "accepted": 1, "rejected": 0, "failed": 0}
    assert build_funnel(generations, filtered, marked, removed) == [
        {"template": "questions"}
        | counts
        | {"rejected": 1, "texts": 7, "kept": 4, "distinct": 1, "tokens": 94}
        | {"prompt_tokens": 20, "cached_tokens": 12}
        | {"dropped": {"truncated": 1, "ungrounded": 2, "duplicate": 2, "contaminated": 1}},
        {"template": "paraphrase"}
        | counts
        | {"failed": 1, "texts": 2, "kept": 1, "distinct": 1, "tokens": 5, "dropped": {"failed": 1}}
        | {"prompt_tokens": 20, "cached_tokens": 12},
        {"template": "propose_strategies"}
        | counts
        | {"planned": 1, "texts": 0, "kept": 0, "distinct": 0, "tokens": 8, "dropped": {}}
        | {"prompt_tokens": 10, "cached_tokens": 6},
    ]
    assert [line["texts"] - line["distinct"] for line in build_funnel(generations, filtered, marked, removed)] == [
        sum(line["dropped"].values()) for line in build_funnel(generations, filtered, marked, removed)
    ]


def test_no_request_gives_no_line_and_all_rows_dropped_still_count():
    assert build_funnel(requests(), texts("reason"), texts("duplicate_of"), texts("ngram")) == []
    generations = requests(("paraphrase", "The owl.", "stop", None, 5))
    (line,) = build_funnel(
        generations, texts("reason", ("paraphrase", "copy")), texts("duplicate_of"), texts("ngram")
    )
    assert (line["texts"], line["kept"], line["distinct"], line["dropped"]) == (1, 0, 0, {"copy": 1})
