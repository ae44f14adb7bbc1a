"""Generate: the plan, its addresses, and the ledger as resume, incremental run and reuse. No model."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from active_reading.augment.engine import TOO_LONG, Completion, EchoEngine, Engine, VllmEngine
from active_reading.augment.funnel import REJECTION, check_requests, rejection_counts, request_counts
from active_reading.augment.generate import generate, make_engine
from active_reading.augment.ledger import SCHEMA, Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.settings import GenerateSettings, TemplateUse

MODEL = ModelIdentity("tiny", "r1")
TEXTS = {
    "owl": "The owl sleeps in the oak. The oak stands by the lake. The lake is deep.",
    "otter": "The otter swims in the lake. The otter eats fish.",
    "eel": "The eel hides under one stone. The eel is long.",
}
ONE_TEMPLATE = [TemplateUse(template="paraphrase")]
SHIPPED = [
    TemplateUse(template="paraphrase", replicates=2),
    TemplateUse(template="questions"),
    TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy", replicates=3),
]


class ScriptedEngine:
    """Answers in batches of three, newest first, with `answer(prompt)`; remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str], stop_after: int | None = None) -> None:
        self.answer = answer
        self.stop_after = stop_after
        self.prompts: list[str] = []
        self.waiting: list[tuple[str, str]] = []
        self.num_running = 0
        self.most_running = 0
        self.closed = False

    def submit(self, request_id, messages, sampling):
        self.prompts.append(messages[-1]["content"])
        self.waiting.append((request_id, messages[-1]["content"]))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)

    def poll(self):
        if self.stop_after is not None and len(self.prompts) - len(self.waiting) >= self.stop_after:
            raise KeyboardInterrupt
        batch, self.waiting = self.waiting[-3:][::-1], self.waiting[:-3]
        self.num_running -= len(batch)
        return [Completion(request_id, self.answer(prompt), "stop", 9, 4) for request_id, prompt in batch]

    def close(self):
        self.closed = True


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


class Counted:
    """Makes engines and counts them."""

    def __init__(self, make: Callable[[], Engine] = EchoEngine) -> None:
        self.make = make
        self.engines: list[Any] = []

    def __call__(self) -> Engine:
        self.engines.append(self.make())
        return self.engines[-1]


def chunks_of(*names: str, title: str = "Animals") -> pl.DataFrame:
    rows = [
        {
            "chunk_id": f"chunk-{name}",
            "document_id": f"document-{name}",
            "start": 0,
            "end": len(TEXTS[name]),
            "num_tokens": 12,
            "text": TEXTS[name],
            "title": title,
        }
        for name in names
    ]
    return pl.DataFrame(rows)


def run(
    folder: Path,
    chunks: pl.DataFrame,
    templates: list[TemplateUse] | None = None,
    make: Callable[[], Engine] = EchoEngine,
    model: ModelIdentity = MODEL,
    **settings: Any,
) -> tuple[pl.DataFrame, int, Counted]:
    engines = Counted(make)
    wanted = GenerateSettings(engine="echo", templates=templates or SHIPPED, **settings)
    rows, num_planned, num_asked = generate(chunks, wanted, model, Ledger(folder), engines, lambda *_: None)
    assert num_planned == rows.height
    return rows, num_asked, engines


def never() -> Engine:
    raise AssertionError("the engine was started")


def write_template(path: Path, body: str, answer: str = "text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\nversion: 1\nanswer: {answer}\n---\n{body}\n")
    return str(path)


def test_every_request_of_the_plan_is_answered_and_counted_once(tmp_path):
    """Per chunk: 2 paraphrases, 1 set of questions, 1 proposal, and 2 strategies applied 3 times each."""
    rows, num_calls, engines = run(tmp_path, chunks_of("owl", "otter", "eel"))
    assert num_calls == rows.height == 3 * (2 + 1 + 1 + 2 * 3)
    assert rows.schema == SCHEMA
    assert rows["request_id"].n_unique() == rows.height
    per_template = dict(rows["template"].value_counts().iter_rows())
    assert per_template == {"paraphrase": 6, "questions": 3, "propose_strategies": 3, "apply_strategy": 18}
    assert rows["chunk_id"].value_counts()["count"].to_list() == [10, 10, 10]
    assert request_counts(rows, 30) == {"planned": 30, "accepted": 30, "rejected": 0, "failed": 0}
    assert len(engines.engines) == 1


def test_a_row_says_how_it_was_made(tmp_path):
    rows, _, _ = run(tmp_path, chunks_of("owl"), ONE_TEMPLATE, temperature=0.5, top_p=0.9)
    (row,) = rows.rows(named=True)
    assert row["text"].startswith("It is so that ")
    assert {
        name: row[name] for name in ("chunk_id", "template", "strategy", "replicate", "model", "model_revision")
    } == {
        "chunk_id": "chunk-owl",
        "template": "paraphrase",
        "strategy": None,
        "replicate": 0,
        "model": "tiny",
        "model_revision": "r1",
    }
    assert (row["temperature"], row["top_p"], row["max_tokens"], row["finish_reason"]) == (0.5, 0.9, 256, "stop")
    assert row["error"] is None
    assert row["completion_tokens"] == len(row["text"].split())


def test_a_second_run_makes_no_call_and_starts_no_engine(tmp_path):
    first, _, _ = run(tmp_path, chunks_of("owl", "otter"))
    second, num_calls, _ = run(tmp_path, chunks_of("owl", "otter"), make=never)
    assert num_calls == 0
    assert second.equals(first)


def test_one_more_chunk_costs_only_its_own_requests(tmp_path):
    first, _, _ = run(tmp_path, chunks_of("owl", "otter"))
    second, num_calls, _ = run(tmp_path, chunks_of("eel", "owl", "otter"))
    assert num_calls == 10
    assert second.filter(pl.col("chunk_id") != "chunk-eel").equals(first)


def test_one_chunk_less_costs_nothing_and_its_rows_leave_the_result(tmp_path):
    first, _, _ = run(tmp_path, chunks_of("owl", "otter"))
    second, _, _ = run(tmp_path, chunks_of("otter"), make=never)
    assert second.equals(first.filter(pl.col("chunk_id") == "chunk-otter"))


def test_an_edited_template_asks_again_exactly_its_own_requests(tmp_path):
    mine = write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\nSay it in other words.")
    templates = [TemplateUse(template=mine, replicates=2), *SHIPPED]
    first, _, _ = run(tmp_path / "ledger", chunks_of("owl", "otter"), templates)
    write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\nSay it in new words.")
    second, num_calls, _ = run(tmp_path / "ledger", chunks_of("owl", "otter"), templates)
    assert num_calls == 2 * 2
    others = pl.col("template") != "mine"
    assert second.filter(others).equals(first.filter(others))
    old, new = (set(rows.filter(~others)["request_id"]) for rows in (first, second))
    assert len(old | new) == 8


def test_an_edited_template_that_applies_strategies_keeps_the_proposals(tmp_path):
    apply = write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\nStudy strategy: {{ strategy }}\n\nUse it.")
    templates = [TemplateUse(template="propose_strategies", num_items=2, apply=apply)]
    _, num_calls, _ = run(tmp_path / "ledger", chunks_of("owl"), templates)
    assert num_calls == 1 + 2
    write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\nStudy strategy: {{ strategy }}\n\nFollow it.")
    rows, num_calls, _ = run(tmp_path / "ledger", chunks_of("owl"), templates)
    assert num_calls == 2
    assert rows["template"].to_list() == ["propose_strategies", "mine", "mine"]


def test_a_renamed_template_keeps_its_answers_and_gives_them_its_new_name(tmp_path):
    old = write_template(tmp_path / "old.j2", "Text:\n{{ text }}\n\nRetell.")
    first, _, _ = run(tmp_path / "ledger", chunks_of("owl"), [TemplateUse(template=old)])
    new = write_template(tmp_path / "deeper" / "new.j2", "Text:\n{{ text }}\n\nRetell.")
    second, _, _ = run(tmp_path / "ledger", chunks_of("owl"), [TemplateUse(template=new)], make=never)
    assert first["template"].to_list() == ["old"]
    assert second.equals(first.with_columns(template=pl.lit("new")))


def test_the_result_does_not_depend_on_the_order_in_which_answers_arrive(tmp_path):
    """Later steps are addressed by the bytes of the result: a reused ledger must give the very same table."""
    slow = run(
        tmp_path / "1", chunks_of("owl", "otter"), max_num_seqs=1, make=lambda: ScriptedEngine(lambda p: p[:60])
    )
    fast = run(tmp_path / "2", chunks_of("owl", "otter"), make=lambda: ScriptedEngine(lambda p: p[:60]))
    assert slow[0].equals(fast[0])
    rows = run(tmp_path / "3", chunks_of("owl", "otter"))[0]
    order = ["paraphrase", "questions", "propose_strategies", "apply_strategy"]
    assert [name for name, _ in itertools.groupby(rows["template"])] == order * 2


def test_the_same_text_in_two_chunks_is_asked_once_and_counted_once(tmp_path):
    twice = pl.concat([chunks_of("owl"), chunks_of("owl").with_columns(chunk_id=pl.lit("other"))])
    rows, num_calls, _ = run(tmp_path, twice)
    assert num_calls == rows.height == 10
    assert rows["chunk_id"].unique().to_list() == ["chunk-owl"]
    again, _, _ = run(tmp_path, twice.reverse(), make=never)
    assert again["chunk_id"].unique().to_list() == ["other"]
    assert sorted(again["request_id"]) == sorted(rows["request_id"])


@pytest.mark.parametrize("runs", [1, 2])
def test_the_same_text_under_two_titles_shares_only_what_does_not_depend_on_the_title(tmp_path, runs):
    """The proposal does not use the title, and applying it does: each title has requests of its own."""
    apply = write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\n{{ title }}: {{ strategy }}\n\nUse it.")
    templates = [TemplateUse(template="propose_strategies", num_items=2, apply=apply)]
    other = chunks_of("owl", title="Birds").with_columns(chunk_id=pl.lit("other"))
    twice = pl.concat([chunks_of("owl"), other])
    for _ in range(runs):
        rows, _, _ = run(tmp_path / "ledger", twice, templates)
    counts = dict(rows.group_by("chunk_id", maintain_order=True).len().iter_rows())
    assert counts == {"chunk-owl": 1 + 2, "other": 2}


@pytest.mark.parametrize("runs", [1, 2])
def test_strategies_proposed_once_can_be_applied_by_two_templates(tmp_path, runs):
    apply = write_template(tmp_path / "mine.j2", "Text:\n{{ text }}\n\nStudy strategy: {{ strategy }}\n\nUse it.")
    templates = [
        TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy"),
        TemplateUse(template="propose_strategies", num_items=2, apply=apply),
    ]
    for _ in range(runs):
        rows, _, _ = run(tmp_path / "ledger", chunks_of("owl"), templates)
    assert dict(rows["template"].value_counts().iter_rows()) == {
        "propose_strategies": 1,
        "apply_strategy": 2,
        "mine": 2,
    }


PROPOSAL = "## List every animal by name\n1. Draw the lake with all animals\n- Tell it as a short story"


@pytest.mark.parametrize(("num_items", "applied"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_strategies_lead_to_requests_that_apply_them_at_most_as_many_as_were_asked_for(
    tmp_path, num_items, applied
):
    templates = [
        TemplateUse(template="propose_strategies", num_items=num_items, apply="apply_strategy", replicates=2)
    ]
    rows, num_calls, counted = run(
        tmp_path, chunks_of("owl", "otter"), templates, make=lambda: ScriptedEngine(lambda _: PROPOSAL)
    )
    assert num_calls == 2 * (1 + 2 * applied)
    names = ["List every animal by name", "Draw the lake with all animals", "Tell it as a short story"][:applied]
    mine = rows.filter((pl.col("chunk_id") == "chunk-owl") & (pl.col("template") == "apply_strategy"))
    assert mine.select("strategy", "replicate").rows() == list(itertools.product(names, (0, 1)))
    (engine,) = counted.engines
    assert sum(f"Study strategy: {names[0]}" in prompt for prompt in engine.prompts) == 2 * 2


def test_a_proposal_without_any_strategy_leads_to_no_further_request(tmp_path):
    templates = [TemplateUse(template="propose_strategies", apply="apply_strategy")]
    rows, num_calls, _ = run(tmp_path, chunks_of("owl"), templates, make=lambda: ScriptedEngine(lambda _: "Sorry."))
    assert num_calls == rows.height == 1


@pytest.mark.parametrize("done", [0, 3, 12, 27])
def test_an_interrupt_keeps_what_was_done_and_the_rest_resumes(tmp_path, done):
    """The rows of an interrupted and resumed run are those of an undisturbed one, in the same order."""
    chunks = chunks_of("owl", "otter", "eel")

    def engine(stop_after=None):
        return ScriptedEngine(lambda prompt: f"{PROPOSAL}\n{len(prompt)}", stop_after)

    undisturbed, total, _ = run(tmp_path / "other", chunks, make=engine)
    counted = Counted(lambda: engine(done))
    with pytest.raises(KeyboardInterrupt):
        generate(
            chunks,
            GenerateSettings(engine="echo", templates=SHIPPED),
            MODEL,
            Ledger(tmp_path / "ledger"),
            counted,
            lambda *_: None,
        )
    assert counted.engines[0].closed
    assert Ledger(tmp_path / "ledger").read().height == done
    rows, num_calls, _ = run(tmp_path / "ledger", chunks, make=engine)
    assert num_calls == total - done
    assert rows.equals(undisturbed)


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


def test_no_chunk_means_no_request_and_a_typed_empty_table(tmp_path):
    rows, num_calls, _ = run(tmp_path, chunks_of("owl").clear(), make=never)
    assert num_calls == rows.height == 0
    assert rows.schema == SCHEMA
    assert request_counts(rows, 0) == {"planned": 0, "accepted": 0, "rejected": 0, "failed": 0}


def test_the_echo_engine_writes_from_the_text_alone_and_always_the_same(tmp_path):
    first, _, _ = run(tmp_path / "1", chunks_of("owl"))
    second, _, _ = run(tmp_path / "2", chunks_of("owl"))
    assert first.equals(second)
    (questions,) = first.filter(pl.col("template") == "questions")["text"]
    assert "Q: Complete the fact: The lake is\nA: deep" in questions
    texts = first.filter(pl.col("template") == "paraphrase")["text"].to_list()
    assert all("It is so that The oak stands by the lake." in text for text in texts)


def test_the_settings_choose_the_engine(monkeypatch):
    asked = []
    monkeypatch.setattr(VllmEngine, "__init__", lambda self, *arguments: asked.append(arguments))
    assert isinstance(make_engine(GenerateSettings(engine="echo"), "folder"), EchoEngine)
    assert asked == []
    assert isinstance(make_engine(GenerateSettings(max_num_seqs=5, seed=3), Path("folder")), VllmEngine)
    assert asked == [("folder", 2048, 5, 3, 1)]
