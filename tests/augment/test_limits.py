"""Limits: budgets end a run and leave it resumable; a run gone bad ends, one with some failures never does."""

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from active_reading.augment.engine import Completion, EchoEngine
from active_reading.augment.generate import generate
from active_reading.augment.ledger import Ledger
from active_reading.augment.limits import WINDOW, BudgetSettings, LimitReached, Limits, PriceSettings
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse


def limits(**budget: Any) -> Limits:
    return Limits(BudgetSettings(**budget), PriceSettings(completion_per_million=1e6), clock=lambda: 0.0)


def answer(text: str = "The owl.", error: str | None = None, tokens: int = 4) -> Completion:
    return Completion("r", text, "error" if error else "stop", 6, tokens, error)


def record(run: Limits, completions: list[Completion]) -> None:
    for completion in completions:
        run.record(completion)


@pytest.mark.parametrize(
    "bad",
    [answer("", error="connection: refused"), answer(""), answer("I'm sorry, but I cannot help with that.")],
    ids=["failed", "empty", "refused"],
)
def test_a_run_that_gives_nothing_any_more_stops_within_one_window_and_says_why(bad):
    run = limits()
    for _ in range(500):
        run.record(answer())
    with pytest.raises(
        LimitReached, match=r"4\d of the last 50 attempts .* the last one with: (connection|I'm|an em)"
    ):
        record(run, [bad] * WINDOW)


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_run_with_some_failures_never_stops(rate):
    drawn = random.Random(0)
    run = limits()
    for _ in range(50_000):
        run.record(answer("", error="broken") if drawn.random() < rate else answer())


def test_a_few_failures_at_the_start_stop_nothing():
    run = limits()
    for _ in range(WINDOW - 1):
        run.record(answer("", error="broken"))


def test_a_budget_counts_what_runs_as_if_it_were_finished():
    run = limits(tokens=100)
    assert run.spent(5) is None, "nothing is known yet"
    for _ in range(5):
        run.record(answer())
    assert run.spent(4) is None
    assert run.spent(5) == "generate.budget.tokens=100"
    assert limits(tokens=100).spent(0) is None


def test_seconds_and_money_are_budgets_too():
    now = [0.0]
    prices = PriceSettings(machine_per_hour=3.6, prompt_per_million=1.0, completion_per_million=2.0)
    run = Limits(BudgetSettings(seconds=10, money=0.02), prices, clock=lambda: now[0])
    now[0] = 9.0
    assert run.spent(0) is None
    assert prices.cost(3600, 1e6, 1e6) == pytest.approx(6.6)
    for _ in range(1000):
        run.record(answer())
    assert run.spent(0) == "generate.budget.money=0.02"  # 0.009 of time and 0.014 of tokens
    now[0] = 10.0
    assert run.spent(0) == "generate.budget.seconds=10"


def chunks(count: int) -> pl.DataFrame:
    texts = [f"The owl number {n} sleeps in the oak. The oak is old." for n in range(count)]
    return pl.DataFrame({"chunk_id": [f"c{n}" for n in range(count)], "text": texts, "title": "Owls"})


def run(folder: Path, make: Any = EchoEngine, **settings: Any) -> Any:
    wanted = GenerateSettings(
        engine="echo", templates=[TemplateUse(template="paraphrase", replicates=2)], max_num_seqs=2, **settings
    )
    ledger = Ledger(folder)
    return generate(chunks(40), wanted, ModelIdentity("tiny", "r1"), ledger, make, lambda *_: None)


def test_a_spent_budget_ends_the_run_and_the_next_ones_finish_it(tmp_path):
    undisturbed = run(tmp_path / "other").rows
    for spent in range(1, 4):
        with pytest.raises(LimitReached, match=r"stopped at generate\.budget\.tokens=900: \d+ requests remain"):
            run(tmp_path / "ledger", budget={"tokens": 900})
        rows = Ledger(tmp_path / "ledger").read()
        tokens = int((rows["prompt_tokens"] + rows["completion_tokens"]).sum())
        assert 700 * spent <= tokens <= 1000 * spent
    made = run(tmp_path / "ledger", budget={"tokens": 90_000})
    assert made.num_asked == undisturbed.height - rows.height > 0
    assert made.rows.equals(undisturbed)


def test_a_run_gone_bad_ends_and_what_came_before_is_kept(tmp_path):
    class Dying(EchoEngine):
        count = 0

        def poll(self):
            (done,) = super().poll()
            Dying.count += 1
            if Dying.count <= 20:
                return [done]
            return [Completion(done.request_id, "", "error", 9, 0, "connection: refused", is_final=True)]

    with pytest.raises(LimitReached, match="40 of the last 50 attempts failed"):
        run(tmp_path, Dying)
    rows = Ledger(tmp_path).read()
    assert rows["error"].null_count() == 20
    assert run(tmp_path).num_asked == 60


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"engine": "endpoint"}, "engine=endpoint and a section 'endpoint' go together"),
        (
            {"endpoint": {"url": "http://x/v1", "model": "m"}},
            "engine=endpoint and a section 'endpoint' go together",
        ),
        ({"engine": "echo", "data_parallel": 2}, "data_parallel are of vllm"),
        ({"budget": {"money": 3}}, "budget.money needs prices"),
        ({"engine": "endpoint", "endpoint": {"url": "x/v1", "model": "m"}}, "url"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        GenerateSettings.model_validate(settings)


def test_what_changes_no_answer_is_no_part_of_how_it_was_made():
    plain = GenerateSettings()
    costly = GenerateSettings(
        max_num_seqs=3, tensor_parallel=2, data_parallel=2, budget={"tokens": 5}, prices={"machine_per_hour": 2}
    )
    assert plain.how() == costly.how()
    assert plain.how() != GenerateSettings(temperature=0.1).how()
