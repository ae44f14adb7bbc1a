"""Estimate: what a sample says of the rest is what the rest then takes."""

import math

import polars as pl
import pytest

from active_reading.augment.engine import EchoEngine
from active_reading.augment.estimate import describe, estimate
from active_reading.augment.generate import generate
from active_reading.augment.ledger import Ledger
from active_reading.augment.limits import BudgetSettings, PriceSettings
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse

MODEL = ModelIdentity("tiny", "r1")
TEMPLATES = [
    TemplateUse(template="paraphrase", replicates=2),
    TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy"),
]
CHUNKS = pl.DataFrame(
    [
        {"chunk_id": f"c{number}", "text": f"The owl {number} sleeps. The oak stands by the lake.", "title": "Owls"}
        for number in range(20)
    ]
)


def settings(templates: list[TemplateUse] = TEMPLATES, **changes: object) -> GenerateSettings:
    return GenerateSettings.model_validate({"engine": "echo", "templates": templates, **changes})


def estimated(folder, chunks=CHUNKS, how=None, num_sampled=5):
    return estimate(chunks, how or settings(), MODEL, Ledger(folder), EchoEngine, lambda *_: None, num_sampled)


def asked(folder, chunks=CHUNKS, how=None):
    return generate(chunks, how or settings(), MODEL, Ledger(folder), EchoEngine, lambda *_: None)


def test_the_estimate_is_what_the_rest_takes(tmp_path):
    """Chunks of one kind: no error of the sample."""
    found = estimated(tmp_path)
    before = Ledger(tmp_path).read()
    rest = asked(tmp_path)
    new = rest.rows.join(before, on="request_id", how="anti")
    assert (found.num_sampled, found.num_chunks, found.num_asked) == (5, 15, 5 * 5)
    assert rest.num_asked == found.total["requests"].value == 15 * 5
    assert found.total["requests"].error == 0
    for name in ("prompt_tokens", "completion_tokens"):
        assert found.total[name].value == pytest.approx(new[name].sum(), rel=0.05)
    assert {name: counts["requests"].value for name, counts in found.templates.items()} == {
        "paraphrase": 30,
        "propose_strategies": 15,
        "apply_strategy": 30,
    }


def test_the_error_covers_chunks_that_differ(tmp_path):
    texts = ["The owl sleeps. " * (1 + 7 * number % 20) for number in range(20)]
    chunks = CHUNKS.with_columns(text=pl.Series(texts))
    found = estimated(tmp_path, chunks)
    before = Ledger(tmp_path).read()
    new = asked(tmp_path, chunks).rows.join(before, on="request_id", how="anti")
    expected = found.total["prompt_tokens"]
    assert expected.error > 0
    assert abs(expected.value - new["prompt_tokens"].sum()) < 3 * expected.error


def test_what_is_answered_costs_nothing(tmp_path):
    """Half of the chunks have all their answers, the others lack one template."""
    asked(tmp_path, CHUNKS[:10])
    asked(tmp_path, CHUNKS[10:], settings(TEMPLATES[1:]))
    found = estimated(tmp_path, num_sampled=2)
    assert found.num_answered == 10 * 5 + 10 * 3
    assert (found.num_asked, found.num_chunks) == (4, 8)
    assert list(found.templates) == ["paraphrase"]
    assert found.total["requests"].value == 16


def test_the_sample_is_not_asked_again_and_an_estimate_of_nothing_says_so(tmp_path):
    estimated(tmp_path)
    assert asked(tmp_path).num_asked == 75
    found = estimate(
        CHUNKS, settings(), MODEL, Ledger(tmp_path), lambda: pytest.fail("an engine was started"), lambda *_: None
    )
    assert (found.num_answered, found.num_chunks) == (100, 0)
    assert describe(found) == "100 requests are answered already\nnothing remains to be asked"


def test_the_cost_is_that_of_the_tokens_and_a_budget_does_not_stop_the_sample(tmp_path):
    prices = PriceSettings(prompt_per_million=3.0, completion_per_million=5.0)
    found = estimated(tmp_path, how=settings(prices=prices, budget=BudgetSettings(tokens=1)))
    prompt, answer = (found.total[name].value for name in ("prompt_tokens", "completion_tokens"))
    assert found.cost == pytest.approx((3 * prompt + 5 * answer) / 1e6)
    assert f"cost at the given prices: {found.cost:.2f}" in describe(found)


def test_of_one_chunk_there_is_no_error(tmp_path):
    found = estimated(tmp_path, num_sampled=1)
    assert math.isnan(found.total["requests"].error)
    assert "+- nan" not in describe(found)
