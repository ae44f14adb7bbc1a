"""Requests in flight: how many and in which order, and what becomes of those that are refused, fail or get lost."""

import itertools
from collections import Counter

import polars as pl
import pytest
from generating import MODEL, ONE_TEMPLATE, SHIPPED, TEXTS, Counted, ScriptedEngine, chunks_of, never, run

from active_reading.augment.engine import TOO_LONG, Completion, EchoEngine
from active_reading.augment.funnel import REJECTION, check_requests, rejection_counts, request_counts
from active_reading.augment.generate import generate
from active_reading.augment.ledger import Ledger
from active_reading.augment.settings import GenerateSettings, TemplateUse


class RefusingEngine(ScriptedEngine):
    """Has no room for what it is told about owls, and cuts short what it is told about eels."""

    def poll(self):
        return [self.judged(done) for done in super().poll()]

    def judged(self, done):
        about = self.answer(next(p for p in reversed(self.prompts) if p == done.text))
        if "owl" in about:
            return Completion(done.request_id, "", TOO_LONG, 9, 0, "prompt of 9 tokens leaves no room")
        return Completion(done.request_id, "The eel", "length", 9, 4) if "eel" in about else done


class FlakyEngine(ScriptedEngine):
    """Fails so many times at every request about an owl before it answers; proposes no strategies."""

    def __init__(self, failures: int) -> None:
        super().__init__(lambda prompt: f"A text of {len(prompt)} letters.")
        self.failures = failures
        self.attempts: Counter[str] = Counter()

    def submit(self, request_id, messages, sampling):
        self.attempts[request_id] += "owl" in messages[-1]["content"]
        super().submit(request_id, messages, sampling)

    def poll(self):
        return [self.tried(done) for done in super().poll()]

    def tried(self, done):
        if 0 < self.attempts[done.request_id] <= self.failures:
            return Completion(done.request_id, "", "error", 9, 0, "the cache could not be read")
        return done


def test_a_request_without_room_or_cut_short_is_rejected_at_once_and_the_raw_text_stays(tmp_path):
    rows, _, counted = run(
        tmp_path, chunks_of("owl", "otter", "eel"), make=lambda: RefusingEngine(lambda prompt: prompt)
    )
    counts = request_counts(rows, rows.height)
    assert (counts["rejected"], counts["failed"]) == (8, 0)
    assert rejection_counts(rows) == {"too_long": 4, "truncated": 4}
    told = rows.with_columns(REJECTION.alias("reason")).select("chunk_id", "reason", "text", "error").unique()
    assert {row for row in told.rows() if row[1]} == {
        ("chunk-owl", "too_long", "", "prompt of 9 tokens leaves no room"),
        ("chunk-eel", "truncated", "The eel", None),
    }
    (engine,) = counted.engines
    assert len(engine.prompts) == rows.height, "no further attempt helps"


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failure_that_passes_is_not_seen_in_the_rows(tmp_path, failures):
    undisturbed, _, _ = run(tmp_path / "1", chunks_of("owl", "otter"), make=lambda: FlakyEngine(0))
    rows, num_asked, counted = run(tmp_path / "2", chunks_of("owl", "otter"), make=lambda: FlakyEngine(failures))
    assert rows.equals(undisturbed)
    assert num_asked == rows.height
    (engine,) = counted.engines
    assert sorted(engine.attempts.values()) == [0] * 4 + [1 + failures] * 4


def test_a_failure_that_stays_is_tried_three_times_and_asked_again_by_the_next_run(tmp_path):
    rows, num_asked, counted = run(tmp_path, chunks_of("owl", "otter"), make=lambda: FlakyEngine(3))
    failed = rows.filter(pl.col("error").is_not_null())
    assert failed["chunk_id"].to_list() == ["chunk-owl"] * 4
    assert failed["error"].unique().to_list() == ["the cache could not be read"]
    assert request_counts(rows, num_asked)["failed"] == 4
    (engine,) = counted.engines
    assert sorted(engine.attempts.values()) == [0] * 4 + [3] * 4
    again, num_asked, _ = run(tmp_path, chunks_of("owl", "otter"), make=lambda: FlakyEngine(0))
    assert num_asked == 4
    assert again["error"].null_count() == again.height


def test_a_request_that_the_engine_loses_does_not_pass_the_check(tmp_path):
    class Losing(ScriptedEngine):
        def poll(self):
            return super().poll()[1:] if len(self.waiting) < 3 else super().poll()

    wanted = GenerateSettings(engine="echo", templates=ONE_TEMPLATE)
    made = generate(
        chunks_of("owl", "otter"), wanted, MODEL, Ledger(tmp_path), lambda: Losing(str), lambda *_: None
    )
    assert (made.num_planned, made.rows.height) == (2, 1)
    with pytest.raises(RuntimeError, match="do not add up: .*'planned': 2, 'accepted': 1"):
        check_requests(request_counts(made.rows, made.num_planned))


def test_an_answer_is_saved_while_the_engine_is_busy_with_long_ones(tmp_path, monkeypatch):
    """One answer comes at once, the others after 30 s; a poll takes 1 s, and the ledger's interval is 5."""
    now = [0.0]
    monkeypatch.setattr("active_reading.augment.ledger.time.monotonic", lambda: now[0])
    saved: list[int] = []

    class Busy(ScriptedEngine):
        def poll(self):
            saved.append(Ledger(tmp_path).read().height)
            now[0] += 1
            if 1 < now[0] < 30:
                return []
            self.num_running -= 1
            return [Completion(self.waiting.pop()[0], "The lake is deep.", "stop", 9, 4)]

    run(tmp_path, chunks_of("owl", "otter", "eel"), ONE_TEMPLATE, make=lambda: Busy(str))
    assert saved.index(1) in (5, 6)
    assert set(saved[6:29]) == {1}


def test_what_follows_an_answer_is_asked_before_the_next_chunk(tmp_path):
    class Listening(EchoEngine):
        heard: list[str] = []

        def submit(self, request_id, messages, sampling):
            text = messages[-1]["content"]
            animal = next(name for name in TEXTS if TEXTS[name] in text)
            self.heard.append(f"{animal} {'applied' if 'Study strategy:' in text else 'asked'}")
            super().submit(request_id, messages, sampling)

    templates = [TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy")]
    run(tmp_path, chunks_of("owl", "otter", "eel"), templates, make=Listening, max_num_seqs=1)
    assert Listening.heard == [
        *["owl asked", "otter asked"],  # two are in flight
        *["owl applied", "owl applied", "otter applied", "otter applied"],
        *["eel asked", "eel applied", "eel applied"],
    ]


def test_a_request_without_room_is_asked_again_and_nothing_else(tmp_path):
    """A longer context may answer it: `max_model_len` is no part of the address."""
    chunks = chunks_of("owl", "otter")
    first, _, _ = run(tmp_path, chunks, make=lambda: RefusingEngine(lambda prompt: prompt))
    assert rejection_counts(first) == {"too_long": 4}
    second, num_calls, _ = run(tmp_path, chunks, max_model_len=4096)
    assert num_calls == 4 + 2 * 3  # the answered proposal of the owl leads to 2 strategies, 3 times each
    assert rejection_counts(second) == {}
    third, _, _ = run(tmp_path, chunks, make=never)
    assert third.equals(second)


def test_the_engine_is_kept_busy_but_never_flooded_and_asked_chunk_by_chunk(tmp_path):
    counted = Counted(lambda: ScriptedEngine(lambda prompt: "One sentence."))
    wanted = GenerateSettings(engine="echo", templates=SHIPPED, max_num_seqs=4)
    chunks = chunks_of("owl", "otter", "eel")
    generate(chunks, wanted, MODEL, Ledger(tmp_path), counted, lambda *_: None)
    (engine,) = counted.engines
    assert engine.most_running == 2 * 4
    names = [next(name for name in TEXTS if TEXTS[name] in prompt) for prompt in engine.prompts]
    assert [name for name, _ in itertools.groupby(names)] == ["owl", "otter", "eel"]


def test_progress_ends_at_the_number_of_calls(tmp_path):
    seen: list[tuple[int, int, str]] = []
    wanted = GenerateSettings(engine="echo", templates=SHIPPED)
    _, _, num_calls = generate(
        chunks_of("owl"), wanted, MODEL, Ledger(tmp_path), EchoEngine, lambda *state: seen.append(state[:3])
    )
    assert [done for done, _, _ in seen] == list(range(1, num_calls + 1))
    assert seen[-1] == (num_calls, num_calls, "answers")
    assert all(done <= total for done, total, _ in seen)
