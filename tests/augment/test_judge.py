"""The judge: what falls by its verdicts, how its threshold is chosen, and that no verdict loses no text."""

import random
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_reading.augment.engine import Completion, EchoEngine, probability_of_yes
from active_reading.augment.judge import (
    LEAST_PLANTED,
    QUESTION,
    STATEMENT,
    JudgeSettings,
    answers_agree,
    calibrate,
    judge_texts,
    make_ask,
    plant,
)
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity, Planner
from active_reading.augment.planting import falsified
from active_reading.augment.settings import GenerateSettings, TemplateUse

ANSWERS = {"paraphrase": "text", "questions": "questions"}


def corpus(count: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Chunks about potters, and of each a true text and a true pair."""
    draw = random.Random(0)
    chunks, kept = [], []
    for number in range(count):
        name, town = (
            "".join(draw.choice("bdfglmnprst") + draw.choice("aeiou") for _ in range(3)).title() for _ in range(2)
        )
        year = 1500 + draw.randrange(400)
        text = f"In the town of {town} the potter {name} made {number + 3} bowls in {year}. They were green."
        chunks.append((f"c{number}", text))
        kept.append(
            (f"{number:03}t", f"c{number}", "paraphrase", f"In {town} it was {name} who made {number + 3} bowls.")
        )
        pair = "Question: Complete the fact: They were\nAnswer: green"
        kept.append((f"{number:03}q", f"c{number}", "questions", pair))
    return (
        pl.DataFrame(kept, schema=["id", "chunk_id", "template", "text"], orient="row"),
        pl.DataFrame(chunks, schema=["chunk_id", "text"], orient="row"),
    )


class Reader:
    """Finds a statement true when all of its capitalised words and numbers stand in the text."""

    def __init__(self, silent: bool = False) -> None:
        self.asked: list[str] = []
        self.silent = silent

    def __call__(self, rows: pl.DataFrame, template: str) -> pl.Series:
        self.asked.append(template)
        if self.silent:
            return pl.Series([None] * rows.height, dtype=pl.String)
        if template == QUESTION:
            return pl.Series(["green."] * rows.height)
        verdicts = []
        for text, statement in rows.select("text", "statement").iter_rows():
            words, there = ([word.strip(".,") for word in each.split()] for each in (statement, text))
            known = all(word in there for word in words if word[0].isupper() or word[0].isdigit())
            verdicts.append("0.9" if known and " not" not in statement else "0.1")
        return pl.Series(verdicts)


def test_a_judge_that_can_read_finds_what_is_false_and_says_how_well():
    kept, chunks = corpus(60)
    lie = pl.DataFrame(
        [("zz", "c0", "paraphrase", "In Paris it was Napoleon who made 99 bowls.")], kept.schema, orient="row"
    )
    judged = judge_texts(
        pl.concat([kept, lie]), ANSWERS, chunks, JudgeSettings(statements=True, answers=True), Reader()
    )
    fallen = judged.rows.filter(pl.col("reason").is_not_null())
    assert fallen["id"].to_list() == ["zz"]
    assert fallen["reason"].to_list() == ["judged_false"]
    assert "P(yes)" in fallen["detail"][0]
    figures = judged.figures["statements"]
    # Names that change places stay names of the text: this reader cannot see it.
    assert figures["recall_by_kind"]["names"] == figures["recall_by_kind"]["numbers"] == 1
    assert figures["recall_by_kind"].get("swapped", 0) == 0
    assert figures["precision"] > 0.9
    assert figures["false_rejects"] < 0.1
    assert judged.figures["answers"] == {"texts": 60, "fallen": 0, "unjudged": 0}


def test_a_pair_whose_question_is_answered_otherwise_falls():
    kept, chunks = corpus(3)
    lie = pl.DataFrame(
        [("zz", "c0", "questions", "Question: What colour were they?\nAnswer: blue")], kept.schema, orient="row"
    )
    judged = judge_texts(pl.concat([kept, lie]), ANSWERS, chunks, JudgeSettings(answers=True), Reader())
    fallen = judged.rows.filter(reason="other_answer")
    assert fallen["id"].to_list() == ["zz"]
    assert "green" in fallen["detail"][0]


def test_what_gets_no_verdict_is_kept_and_counted():
    kept, chunks = corpus(30)
    judged = judge_texts(kept, ANSWERS, chunks, JudgeSettings(statements=True, answers=True), Reader(silent=True))
    assert judged.rows["reason"].null_count() == kept.height
    assert judged.figures["statements"]["unjudged"] == judged.figures["answers"]["unjudged"] == 30


def test_only_what_is_wanted_is_asked():
    kept, chunks = corpus(30)
    reader = Reader()
    judge_texts(kept, ANSWERS, chunks, JudgeSettings(answers=True), reader)
    assert reader.asked == [QUESTION]


@pytest.mark.parametrize("rows", [0, LEAST_PLANTED - 1])
def test_a_judge_that_cannot_be_calibrated_drops_nothing(rows):
    kept, chunks = corpus(rows)
    reader = Reader()
    judged = judge_texts(kept, ANSWERS, chunks, JudgeSettings(statements=True), reader)
    assert judged.rows.height == kept.height
    assert judged.rows["reason"].null_count() == kept.height
    assert judged.figures["statements"]["threshold"] == 0


def test_a_judge_that_guesses_drops_few_and_its_figures_show_it():
    draw = random.Random(1)
    pairs = pl.DataFrame(
        {
            "true": [draw.random() for _ in range(2000)],
            "false": [draw.random() for _ in range(2000)],
            "kind": "names",
        }
    )
    threshold, figures = calibrate(pairs, 0.05)
    assert threshold < 0.1
    assert figures["false_rejects"] < 0.08
    assert figures["recall"] < 0.08
    assert abs(figures["auc"] - 0.5) < 0.03
    assert abs(figures["precision"] - 0.5) < 0.15


def test_calibration_keeps_to_the_share_of_true_texts_that_may_fall():
    pairs = pl.DataFrame({"true": [number / 100 for number in range(100)], "false": 0.0, "kind": "names"})
    for share in (0.05, 0.2, 0.5):
        threshold, _ = calibrate(pairs, share)
        assert sum(value < threshold for value in pairs["true"]) <= share * 100


def test_planted_facts_are_false_spread_over_kinds_and_always_the_same():
    kept, chunks = corpus(60)
    rows = kept.filter(template="paraphrase").join(chunks.rename({"text": "source"}), on="chunk_id")
    planted = plant(rows)
    assert planted.equals(plant(rows.sample(fraction=1, shuffle=True, seed=3)))
    assert set(planted["kind"]) >= {"names", "numbers", "negations", "swapped"} - {"negations"}
    both = planted.join(rows.select("id", "text"), on="id")
    assert both.filter(pl.col("statement") == pl.col("text")).is_empty()


@given(st.text(max_size=200), st.integers())
def test_planting_never_fails_on_any_text(text, seed):
    for kind, false in falsified(text, ["Castlune"], random.Random(seed)):
        assert kind
        assert isinstance(false, str)


@pytest.mark.parametrize(
    ("written", "read", "agree"),
    [
        ("in 1912", "1912", True),
        ("4,000", "four thousand", True),
        ("the Duke of Larn", "Duke of Larn.", True),
        ("the potter Quillan Farrow", "Quillan Farrow", True),
        ("1912", "1913", False),
        ("green", "blue", False),
        ("yes", "Yes, they were", True),
        ("yes", "no", False),
        ("60 green bowls", "80 green bowls", False),
        ("", "something", False),
        ("30 metres in 1912", "30 metres", True),
    ],
)
def test_answers_agree(written, read, agree):
    assert answers_agree(written, read) is agree


@given(st.text(max_size=60), st.text(max_size=60))
def test_agreement_is_symmetric(first, second):
    assert answers_agree(first, second) == answers_agree(second, first)


def test_probability_of_yes_gathers_spellings_and_needs_one_of_the_words():
    tokens = [("Yes", -1.0), (" yes", -1.0), ("No", -1.0), ("Maybe", -0.1)]
    assert float(probability_of_yes(tokens)) == pytest.approx(2 / 3, abs=1e-5)
    assert probability_of_yes([("Maybe", -0.1)]) == ""


def test_asking_goes_through_the_ledger_and_never_twice(tmp_path):
    rows = pl.DataFrame(
        {"text": ["They were green.", "It was old.", "They were green."], "statement": ["green", "new", "green"]}
    )
    engines: list[EchoEngine] = []

    def make_engine() -> EchoEngine:
        engines.append(EchoEngine())
        return engines[-1]

    ask = make_ask(GenerateSettings(), ModelIdentity("m", "1"), Ledger(tmp_path), make_engine, lambda *_: None)
    first = ask(rows, STATEMENT)
    assert first.to_list() == ["1.000000", "0.000000", "1.000000"]
    assert ask(rows, STATEMENT).to_list() == first.to_list()
    assert len(engines) == 1
    assert Ledger(tmp_path).read().height == 2


@pytest.mark.parametrize(("reason", "text", "error"), [("length", "gre", None), ("error", "", "broken")])
@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_that_was_cut_counts_only_where_it_is_wanted(tmp_path, reason, text, error, cut):
    class Cutting(EchoEngine):
        def poll(self) -> list[Completion]:
            return [replace(done, text=text, finish_reason=reason, error=error) for done in super().poll()]

    rows = pl.DataFrame({"text": ["They were green."], "question": ["What?"]})
    ledger, settings = Ledger(tmp_path), GenerateSettings()
    ask = make_ask(settings, ModelIdentity("m", "1"), ledger, Cutting, lambda *_: None, cut=cut)
    assert ask(rows, QUESTION).to_list() == ["gre" if cut and not error else None]


def test_a_study_cannot_learn_from_a_judges_template(tmp_path):
    with pytest.raises(ValueError, match="undefined variable 'statement'"):
        Planner(GenerateSettings(templates=[TemplateUse(template=STATEMENT)]), ModelIdentity("m", "1"))
    mine = tmp_path / "mine.j2"
    mine.write_text("---\nversion: 1\nanswer: yes_no\n---\nIs this so? {{ text }}", encoding="utf-8")
    with pytest.raises(ValueError, match="yes or no"):
        Planner(GenerateSettings(templates=[TemplateUse(template=str(mine))]), ModelIdentity("m", "1"))
