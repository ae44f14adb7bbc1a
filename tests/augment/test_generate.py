"""Generate: the plan, its addresses, and the ledger as resume, incremental run and reuse. No model."""

import itertools
from pathlib import Path

import polars as pl
import pytest
from generating import MODEL, ONE_TEMPLATE, SHIPPED, Counted, ScriptedEngine, chunks_of, never, run

from active_reading.augment.engine import EchoEngine, VllmEngine
from active_reading.augment.funnel import request_counts
from active_reading.augment.generate import generate, make_engine
from active_reading.augment.ledger import SCHEMA, Ledger
from active_reading.augment.settings import GenerateSettings, TemplateUse


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


def test_strategies_that_another_run_proposed_meanwhile_are_applied(tmp_path):
    """The ledger keeps the first answer to a request: what follows is that answer's."""
    templates = [TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy")]

    class Overtaken(ScriptedEngine):
        def poll(self):
            if not self.prompts[1:]:  # the proposal alone is asked
                run(tmp_path, chunks_of("owl"), templates, make=lambda: ScriptedEngine(lambda _: PROPOSAL))
            return super().poll()

    rows, _, _ = run(
        tmp_path, chunks_of("owl"), templates, make=lambda: Overtaken(lambda _: "1. Write a letter about it")
    )
    asked = rows.filter(template="apply_strategy")["strategy"].to_list()
    assert asked == ["List every animal by name", "Draw the lake with all animals"]
    assert rows.height == 3
