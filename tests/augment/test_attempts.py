"""Attempts: what is rejected is asked again under new replicates, until enough answers are accepted or the cap."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from active_reading.augment.engine import TOO_LONG, Completion
from active_reading.augment.funnel import STATUS, check_requests, request_counts
from active_reading.augment.generate import Generated, generate
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse

WANTED, CAP = 2, 5
PARAPHRASE = TemplateUse(template="paraphrase", replicates=WANTED, attempts=CAP)
STRATEGIES = TemplateUse(
    template="propose_strategies", num_items=2, apply="apply_strategy", replicates=WANTED, attempts=CAP
)
CHUNKS = pl.DataFrame(
    [
        {"chunk_id": f"c{number}", "text": f"The owl number {number} sleeps in the oak.", "title": "Owls"}
        for number in range(6)
    ]
)


def often_cut(request_id: str, prompt: str) -> Completion:
    """Two of three answers are cut short, by their id alone."""
    if "strategies" in prompt.partition("Text:")[0]:
        return Completion(request_id, "## Read it backwards once\n## Read it very slowly\n", "stop", 9, 4)
    return Completion(request_id, "The owl sleeps.", "length" if int(request_id, 16) % 3 else "stop", 9, 4)


class Scripted:
    """Answers the newest requests first, three at a time; is killed after `stop_after` answers."""

    def __init__(self, answer: Callable[[str, str], Completion], stop_after: int | None = None) -> None:
        self.answer, self.stop_after = answer, stop_after
        self.asked: list[str] = []
        self.waiting: list[tuple[str, str]] = []
        self.num_running = 0

    def submit(self, request_id: str, messages: Any, sampling: Any) -> None:
        self.asked.append(request_id)
        self.waiting.append((request_id, messages[-1]["content"]))
        self.num_running += 1

    def poll(self) -> list[Completion]:
        if self.stop_after is not None and len(self.asked) - len(self.waiting) >= self.stop_after:
            raise KeyboardInterrupt
        batch, self.waiting = self.waiting[-3:][::-1], self.waiting[:-3]
        self.num_running -= len(batch)
        return [self.answer(*each) for each in batch]

    def close(self) -> None:
        pass


def run(folder, engine: Scripted | None, *templates: TemplateUse) -> Generated:
    settings = GenerateSettings(templates=list(templates), max_num_seqs=2)
    made = lambda: engine if engine else pytest.fail("an engine was started")  # noqa: E731
    return generate(CHUNKS, settings, ModelIdentity("tiny", "r1"), Ledger(folder), made, lambda *_: None)


def numbers(made: Generated) -> dict[tuple[str, str | None], tuple[int, int]]:
    """(accepted, asked) by chunk and strategy."""
    rows = made.rows.with_columns(status=STATUS).group_by("chunk_id", "strategy")
    counts = rows.agg((pl.col("status") == "accepted").sum(), pl.len().alias("asked"))
    return {(chunk, strategy): (good, asked) for chunk, strategy, good, asked in counts.iter_rows()}


def test_each_chunk_is_asked_until_enough_is_accepted_or_the_cap_is_reached(tmp_path):
    engine = Scripted(often_cut)
    made = run(tmp_path, engine, PARAPHRASE)
    found = numbers(made)
    assert len(found) == 6
    assert all(good == WANTED or (good < WANTED and asked == CAP) for good, asked in found.values())
    assert len({asked for _, asked in found.values()}) > 1, "some chunks need more attempts than others"
    assert max(Counter(engine.asked).values()) == 1
    check_requests(request_counts(made.rows, made.num_planned))
    assert made.num_asked == made.num_planned == len(engine.asked)


def test_no_attempt_is_made_beyond_what_is_lacking(tmp_path):
    """The replicate that completed the number is the last that was asked, or was asked together with it."""
    made = run(tmp_path, Scripted(often_cut), PARAPHRASE)
    for rows in made.rows.with_columns(good=STATUS == "accepted").partition_by("chunk_id"):
        good = rows.sort("replicate")["good"].to_list()
        asked = WANTED
        while asked < min(CAP, len(good)):
            asked += WANTED - sum(good[:asked])
        assert len(good) == min(asked, CAP)


def test_strategies_are_applied_until_enough_is_accepted_and_proposed_once(tmp_path):
    found = numbers(run(tmp_path, Scripted(often_cut), STRATEGIES))
    assert len(found) == 6 * 3
    for (_, strategy), (good, asked) in found.items():
        assert (good, asked) == (1, 1) if strategy is None else good == WANTED or asked == CAP


@pytest.mark.parametrize("stop_after", [1, 7, 13, 20, 26, 40])
def test_a_killed_run_asks_in_the_end_what_an_undisturbed_one_does(tmp_path, stop_after):
    whole = run(tmp_path / "whole", Scripted(often_cut), PARAPHRASE, STRATEGIES)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Scripted(often_cut, stop_after), PARAPHRASE, STRATEGIES)
    again = run(tmp_path / "killed", Scripted(often_cut), PARAPHRASE, STRATEGIES)
    assert again.rows["request_id"].to_list() == whole.rows["request_id"].to_list()
    assert again.num_planned == whole.num_planned


def test_a_second_run_asks_nothing(tmp_path):
    first = run(tmp_path, Scripted(often_cut), PARAPHRASE, STRATEGIES)
    second = run(tmp_path, None, PARAPHRASE, STRATEGIES)
    assert second.rows.equals(first.rows)
    assert (second.num_asked, second.num_planned) == (0, first.num_planned)


def test_more_attempts_later_ask_only_the_further_ones(tmp_path):
    run(tmp_path, Scripted(often_cut), TemplateUse(template="paraphrase", replicates=WANTED))
    engine = Scripted(often_cut)
    made = run(tmp_path, engine, PARAPHRASE)
    assert made.num_planned == 6 * WANTED + len(engine.asked)


def test_attempts_that_an_earlier_run_answered_are_counted_too(tmp_path):
    """The first run answers both replicates of some chunks; the second one wants one, and takes the others."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Scripted(often_cut, stop_after=9), TemplateUse(template="paraphrase", replicates=2))
    made = run(tmp_path, Scripted(often_cut), TemplateUse(template="paraphrase", replicates=1, attempts=4))
    check_requests(request_counts(made.rows, made.num_planned))


def test_what_fails_or_has_no_room_is_not_asked_under_other_replicates(tmp_path):
    """A failed request may succeed in the next run; a prompt that is too long stays so."""

    def answer(request_id: str, prompt: str) -> Completion:
        if "number 1" in prompt:
            return Completion(request_id, "", "error", 9, 0, "the cache could not be read")
        if "number 2" in prompt:
            return Completion(request_id, "", TOO_LONG, 9, 0, "prompt of 9 tokens leaves no room")
        return Completion(request_id, "The owl", "length", 9, 4)

    found = numbers(run(tmp_path, Scripted(answer), PARAPHRASE))
    asked = {chunk: asked for (chunk, _), (_, asked) in found.items()}
    assert asked == {f"c{number}": WANTED if number in (1, 2) else CAP for number in range(6)}


def test_fewer_attempts_than_replicates_are_refused():
    with pytest.raises(ValidationError, match="paraphrase: attempts=1 is less than the replicates=2 wanted"):
        TemplateUse(template="paraphrase", replicates=2, attempts=1)
