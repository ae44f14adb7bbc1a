"""Requests: what their ids depend on, which templates go together, and how strategies are read."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.plan import ModelIdentity, Plan, Planner, Request, parse_strategies
from active_reading.augment.settings import GenerateSettings, TemplateUse

MODEL = ModelIdentity("tiny", "r1")
TEXTS = {
    "owl": "The owl sleeps in the oak. The oak stands by the lake. The lake is deep.",
    "otter": "The otter swims in the lake. The otter eats fish.",
    "eel": "The eel hides under one stone. The eel is long.",
}
PROPOSE = TemplateUse(template="propose_strategies", num_items=2, apply="apply_strategy", replicates=3)
SHIPPED = [TemplateUse(template="paraphrase", replicates=2), TemplateUse(template="questions"), PROPOSE]


def chunks_of(*names: str) -> list[dict[str, str]]:
    return [{"chunk_id": f"chunk-{name}", "text": TEXTS[name], "title": "Animals"} for name in names]


def plan_of(templates: list[TemplateUse], chunks: list[dict[str, str]]) -> Plan:
    return Plan(Planner(GenerateSettings(templates=templates), MODEL), pl.DataFrame(chunks))


def initial(plan: Plan) -> list[Request]:
    return list(plan.requests(plan.initial()))


def follow_ups(plan: Plan, answer: str, finish_reason: str = "stop") -> list[Request]:
    """What follows from the answer to the first recipe about the first chunk."""
    return [plan.request(*row) for row in plan.follow_ups(0, 0, answer, finish_reason)]


def write_template(path: Path, body: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\nversion: 1\nanswer: text\n---\n{body}\n")
    return str(path)


BASE = {
    "template": "Text:\n{{ text }}\n\nRetell.",
    "name": "mine.j2",
    "text": TEXTS["owl"],
    "title": "Animals",
    "revision": "r1",
    "model": "tiny",
    "temperature": 0.7,
    "top_p": 0.95,
    "seed": 0,
    "max_tokens": 256,
    "replicates": 1,
    "num_items": 4,
    "others": [],
    "max_num_seqs": 96,
    "max_model_len": 2048,
    "chunk_id": "c1",
    "engine": "vllm",
}


def address(folder: Path, **changes: Any) -> set[str]:
    """The ids of the requests that one template plans for one chunk."""
    case = BASE | changes
    path = write_template(folder / case["name"], case["template"])
    use = TemplateUse(
        template=path,
        replicates=case["replicates"],
        max_tokens=case["max_tokens"],
        num_items=case["num_items"],
    )
    names = ("temperature", "top_p", "seed", "max_num_seqs", "max_model_len", "engine")
    settings = GenerateSettings(templates=[*case["others"], use], **{name: case[name] for name in names})
    chunk = {"chunk_id": case["chunk_id"], "text": case["text"], "title": case["title"]}
    plan = Plan(Planner(settings, ModelIdentity(case["model"], case["revision"])), pl.DataFrame([chunk]))
    return {request.request_id for request in initial(plan) if request.recipe.use is use}


USES_ALL = "{{ title }} {{ num_items }}\n{{ text }}\n\nRetell."
MUST_CHANGE = {
    "text": ({"text": TEXTS["otter"]}, {}),
    "one character of the text": ({"text": TEXTS["owl"] + " "}, {}),
    "template source": ({"template": BASE["template"] + " "}, {}),
    "model": ({"model": "huge"}, {}),
    "model revision": ({"revision": "r2"}, {}),
    "temperature": ({"temperature": 0.8}, {}),
    "top_p": ({"top_p": 0.9}, {}),
    "seed": ({"seed": 1}, {}),
    "max_tokens": ({"max_tokens": 128}, {}),
    "title, where the template uses it": ({"title": "Birds"}, {"template": USES_ALL}),
    "num_items, where the template uses it": ({"num_items": 5}, {"template": USES_ALL}),
}
MUST_NOT_CHANGE = {
    "name of the template's file": {"name": "renamed.j2"},
    "place of the template's file": {"name": "deeper/still/mine.j2"},
    "other templates": {"others": [TemplateUse(template="questions")]},
    "max_num_seqs": {"max_num_seqs": 7},
    "max_model_len": {"max_model_len": 4096},
    "id of the chunk": {"chunk_id": "c2"},
    "title, where the template does not use it": {"title": "Birds"},
    "num_items, where the template does not use it": {"num_items": 5},
}


@pytest.mark.parametrize("what", MUST_CHANGE)
def test_a_request_has_another_id_when_its_answer_could_be_another(tmp_path, what):
    changes, also = MUST_CHANGE[what]
    before, after = address(tmp_path, **also), address(tmp_path, **also, **changes)
    assert len(before) == len(after) == 1
    assert before != after


@pytest.mark.parametrize("what", MUST_NOT_CHANGE)
def test_a_request_keeps_its_id_when_its_answer_would_be_the_same(tmp_path, what):
    assert address(tmp_path) == address(tmp_path, **MUST_NOT_CHANGE[what])
    assert len(address(tmp_path)) == 1


def test_every_replicate_has_an_id_and_a_seed_of_its_own_and_more_replicates_keep_the_old_ones(tmp_path):
    two, five = address(tmp_path, replicates=2), address(tmp_path, replicates=5)
    assert (len(two), len(five)) == (2, 5)
    assert address(tmp_path) < two < five
    path = write_template(tmp_path / "mine.j2", BASE["template"])
    requests = initial(plan_of([TemplateUse(template=path, replicates=5)], chunks_of("owl", "otter")))
    assert len({request.sampling.seed for request in requests}) == 10
    assert all(0 <= request.sampling.seed < 2**31 for request in requests)


def test_every_strategy_has_an_id_of_its_own():
    plan = plan_of([PROPOSE], chunks_of("owl"))
    ids = {}
    for answer in ("## Read it aloud twice", "## Read it aloud thrice", "1. Read it aloud twice"):
        ids[answer] = [request.request_id for request in follow_ups(plan, answer)]
    first, second, same = ids.values()
    assert len(set(first) | set(second)) == 2 * PROPOSE.replicates
    assert first == same


def test_the_strategy_that_a_cut_went_through_is_not_applied():
    plan = plan_of([PROPOSE], chunks_of("owl"))
    answer = "## Read it aloud twice\n## Draw a map of the"
    cut = [request.strategy for request in follow_ups(plan, answer, "length")]
    assert set(cut) == {"Read it aloud twice"}
    assert follow_ups(plan, "## Draw a map of the", "length") == []


def test_applications_have_a_budget_of_their_own_that_no_proposal_depends_on():
    def budgets(**changes):
        use = PROPOSE.model_copy(update={"replicates": 1, **changes})
        plan = plan_of([use], chunks_of("owl"))
        (proposal,), (application,) = initial(plan), follow_ups(plan, "## Read it aloud twice")
        return {request.request_id: request.sampling.max_tokens for request in (proposal, application)}

    base, longer = budgets(max_tokens=64, apply_max_tokens=128), budgets(max_tokens=64, apply_max_tokens=512)
    assert list(base.values()) == [64, 128]
    assert list(longer.values()) == [64, 512]
    (shared,) = set(base) & set(longer)
    assert base[shared] == 64


@settings(deadline=None)
@given(order=st.permutations(list(TEXTS)))
def test_the_order_of_chunks_changes_no_id(order):
    def ids(names):
        return {request.request_id for request in initial(plan_of(SHIPPED, chunks_of(*names)))}

    assert ids(order) == ids(TEXTS)
    assert len(ids(order)) == 3 * (2 + 1 + 1)


def test_a_template_may_tell_the_heading_of_chunks_that_have_none(tmp_path):
    path = write_template(tmp_path / "mine.j2", "{{ heading }}\n{{ text }}\n\nRetell.")
    (chunk,) = chunks_of("owl")
    told = [{**chunk, "heading": heading} for heading in (None, "", "Birds")]
    ids = [request.request_id for request in initial(plan_of([TemplateUse(template=path)], told))]
    assert ids[0] == ids[1] != ids[2]
    (bare,) = initial(plan_of([TemplateUse(template=path)], [chunk]))
    assert (bare.request_id, bare.values["heading"]) == (ids[0], "")


def blake(payload: str) -> int:
    return int(hashlib.blake2b(payload.encode(), digest_size=16).hexdigest(), 16)


def test_the_id_of_a_request_is_the_documented_hash(tmp_path):
    """A ledger lives for years: what its ids are made of may not change unnoticed."""
    source = "---\nversion: 1\nanswer: text\n---\nText:\n{{ text }}\n\nRetell.\n"
    template_hash = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    recipe = f'["recipe","{template_hash}",{{}},["tiny","r1"],[0.7,0.95,256,0]]'
    parts = [f"text\0{TEXTS['owl']}", recipe, '["replicate",0]']
    key = blake(parts[0]) ^ blake(parts[1]) ^ blake(parts[2])
    assert address(tmp_path) == {f"{key:032x}"}
    plan = plan_of([PROPOSE.model_copy(update={"replicates": 1})], chunks_of("owl"))
    (application,) = follow_ups(plan, "## Read it aloud twice")
    parts[1], strategy = '["strategy","Read it aloud twice"]', application.recipe.key
    assert application.key == blake(parts[0]) ^ blake(parts[1]) ^ blake(parts[2]) ^ strategy


def test_a_thousand_requests_of_every_kind_have_keys_of_their_own():
    """Texts, titles and strategies that say the same are still different parts of a request."""
    words = [f"Read it aloud {n} times" for n in range(8)]
    chunks = [{"chunk_id": f"{t} {n}", "text": t, "title": n} for t in words for n in words]
    uses = [PROPOSE, TemplateUse(template="paraphrase", replicates=3), TemplateUse(template="questions")]
    plan = plan_of(uses, chunks)
    answer = "\n".join(f"## {word}" for word in words)
    rows = [row for chunk in range(0, len(chunks), len(words)) for row in plan.follow_ups(chunk, 0, answer, "stop")]
    keys = [*plan.initial()["key"].unique(), *(row[0] for row in rows)]
    assert len(keys) == len(words) * (1 + 3 + 1 + PROPOSE.num_items * PROPOSE.replicates)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        ([{"template": "apply_strategy"}], "template 'apply_strategy' needs a strategy"),
        ([{"template": "questions_task"}], "template 'questions_task' needs a task, such as "),
        ([{"template": "questions_task", "task": " "}], "template 'questions_task' needs a task, such as "),
        ([{"template": "questions", "task": "sell kites"}], "template 'questions' does not use 'task'"),
        ([{"template": "propose_strategies"}], "'propose_strategies' proposes strategies: name in 'apply'"),
        ([{"template": "paraphrase", "apply": "apply_strategy"}], "'paraphrase' answers text"),
        ([{"template": "propose_strategies", "apply": "questions"}], "'questions' does not use 'strategy'"),
        ([{"template": "retell"}], "unknown template 'retell'"),
        ([{"template": "propose_strategies", "apply": "retell"}], "unknown template 'retell'"),
    ],
)
def test_templates_that_do_not_go_together_are_refused_before_anything_is_asked(templates, complaint):
    with pytest.raises(ValueError, match=complaint):
        Planner(GenerateSettings(templates=templates), MODEL)


def test_two_templates_of_one_name_are_refused_and_one_template_twice_is_not(tmp_path):
    mine = write_template(tmp_path / "questions.j2", "{{ text }}\n\nRetell.")
    with pytest.raises(ValueError, match="two different templates are named 'questions'"):
        Planner(GenerateSettings(templates=[{"template": "questions"}, {"template": mine}]), MODEL)
    Planner(GenerateSettings(templates=[{"template": mine}, {"template": mine, "max_tokens": 64}]), MODEL)


def test_a_template_named_like_the_mark_of_the_documents_own_text_is_refused(tmp_path):
    path = write_template(tmp_path / "chunk.j2", "{{ text }}\n\nRetell.")
    with pytest.raises(ValueError, match="cannot be named 'chunk'"):
        Planner(GenerateSettings(templates=[{"template": path}]), MODEL)


@pytest.mark.parametrize(
    ("answer", "strategies"),
    [
        ("## Draw a family tree\n## Tell it as a story", ["Draw a family tree", "Tell it as a story"]),
        ("1. Draw a family tree\n2) Tell it as a story", ["Draw a family tree", "Tell it as a story"]),
        ("- Draw a family tree\n* Tell it as a story", ["Draw a family tree", "Tell it as a story"]),
        ("  ###   Draw a family tree:  ", ["Draw a family tree"]),
        ("**Draw a family tree**", ["Draw a family tree"]),
        ("- **Draw a tree**: one branch each", ["Draw a tree: one branch each"]),
        ("Sure! Here are some:\n\n## Draw a family tree\n\nThis helps because ...", ["Draw a family tree"]),
        ("## Draw a family tree\n## draw a Family Tree", ["Draw a family tree"]),
        ("## Memorize\n## Draw a family tree\n## Read aloud", ["Draw a family tree"]),
        ("##Draw a family tree", ["Draw a family tree"]),
        ("## Zeichne den Stammbaum f\u00fcr \u0141ukasz", ["Zeichne den Stammbaum f\u00fcr \u0141ukasz"]),
        ("Draw a family tree", []),
        ("##\n-\n1.\n***\n---", []),
        ("", []),
    ],
)
def test_strategies_are_found_in_the_ways_models_write_them(answer, strategies):
    assert parse_strategies(answer) == strategies


@settings(deadline=None)
@given(st.text(st.sampled_from("#*-1.) ab\n\u2028")))
def test_no_answer_breaks_the_search_for_strategies(text):
    found = parse_strategies(text)
    assert all(len(strategy.split()) >= 3 for strategy in found)
    assert len({strategy.casefold() for strategy in found}) == len(found)


def test_a_task_is_told_to_the_generator_and_makes_requests_of_its_own():
    chunks = pl.DataFrame([{"chunk_id": "c1", "text": "Zora sold 12 kites.", "title": "Kites", "heading": ""}])
    asked = {}
    for task in ("sell kites", "repair kites"):
        settings = GenerateSettings(templates=[TemplateUse(template="questions_task", task=task)])
        plan = Plan(Planner(settings, ModelIdentity("tiny", "r1")), chunks)
        (request,) = plan.requests(plan.initial())
        assert f"do this: {task}. " in request.template.messages(**request.values)[-1]["content"]
        asked[request.request_id] = task
    assert len(asked) == 2
