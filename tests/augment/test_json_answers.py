"""Answers in JSON become the plain forms that parsers read; what is no JSON stays as it is."""

import pytest

from active_reading.augment.filter import parse_pairs
from active_reading.augment.json_answers import plain_answer
from active_reading.augment.plan import ModelIdentity, Plan, Planner, parse_strategies
from active_reading.augment.settings import GenerateSettings, TemplateUse
from active_reading.prompts.render import load_template

PAIRS = (
    '{"questions": [{"question": "Who sleeps\\nin the oak?", "answer": "the owl"}, '
    '{"question": "Where?", "answer": 3}]}'
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (PAIRS, "Q: Who sleeps in the oak?\nA: the owl\nQ: Where?\nA: 3"),
        (
            '{"strategies": ["Draw a family tree", "Read it twice aloud"]}',
            "## Draw a family tree\n## Read it twice aloud",
        ),
        ('["Draw a family tree"]', "## Draw a family tree"),
        ('{"text": " The owl sleeps. "}', "The owl sleeps."),
        ('{"questions": [{"question": "Who', '{"questions": [{"question": "Who'),
        ("The owl sleeps.", "The owl sleeps."),
        ("[]", "[]"),
        ("[" * 5000, "[" * 5000),
        ('["Draw \\ud83d a tree"]', "## Draw \ufffd a tree"),
        ("7", "7"),
    ],
)
def test_json_becomes_lines(text, plain):
    assert plain_answer(text) == plain


def test_the_parsers_read_what_comes_out():
    assert parse_pairs(plain_answer(PAIRS)) == [("Who sleeps in the oak?", "the owl"), ("Where?", "3")]
    assert parse_strategies(plain_answer('{"s": ["Draw a family tree"]}')) == ["Draw a family tree"]


def test_a_template_with_a_schema_asks_for_it_and_its_strategies_are_applied(tmp_path):
    import polars as pl

    path = tmp_path / "proposing.j2"
    schema = "{type: array, items: {type: string}}"
    path.write_text(f"---\nversion: 1\nanswer: strategies\nschema: {schema}\n---\n{{{{ text }}}}\n\nPropose.\n")
    uses = [TemplateUse(template=str(path), apply="apply_strategy")]
    chunks = pl.DataFrame({"chunk_id": ["c"], "text": ["The owl."], "title": ["Owls"]})
    plan = Plan(Planner(GenerateSettings(templates=uses), ModelIdentity("m", "r")), chunks)
    (proposal,) = plan.requests(plan.initial())
    assert proposal.sampling.schema == '{"type": "array", "items": {"type": "string"}}'
    rows = plan.follow_ups(0, 0, '["Draw a family tree", "Read it"]', "stop")
    (application,) = (plan.request(*row) for row in rows)
    assert (application.strategy, application.sampling.schema) == ("Draw a family tree", None)


def test_a_schema_that_is_none_is_refused(tmp_path):
    path = tmp_path / "mine.j2"
    path.write_text("---\nversion: 1\nanswer: text\nschema: object\n---\n{{ text }}\n")
    with pytest.raises(ValueError, match="'schema' must be a JSON schema"):
        load_template(str(path))
