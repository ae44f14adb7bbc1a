"""Which answers are graded by whom, what the grades add up to, and on what the grader is tried."""

import polars as pl
import pytest

from active_reading.augment.engine import EchoEngine
from active_reading.augment.generate import GenerateSettings
from active_reading.augment.judge import make_ask
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.eval.grade import (
    GRADING,
    LEAST_TOLD,
    MOST_TRIED,
    describe_grades,
    doubt,
    grade_answers,
    grading_note,
    known_right,
    known_wrong,
    with_grades,
)
from active_reading.eval.scores import exact_match
from active_reading.prompts.render import load_template

HERON = ("What is the heron called?", ("Admiral", "the Admiral", "Admiral Orse"))
TOWN = ("Where was Orsella born?", ("Pellamire",))
YEAR = ("When was Orsella born?", ("1921", "in 1921"))


class Grader:
    """Says yes with the probability that is given for an answer, 0.9 for any other, and keeps what it was asked."""

    def __init__(self, says: dict[str, str | None] | None = None):
        self.says, self.asked = says or {}, []

    def __call__(self, rows: pl.DataFrame, template: str) -> pl.Series:
        assert template == str(GRADING)
        self.asked += rows.select("question", "text", "statement").rows()
        return pl.Series([self.says.get(answer, "0.900000") for answer in rows["statement"]], dtype=pl.String)

    def answers(self, question: str) -> list[str]:
        return [answer for asked, _, answer in self.asked if asked == question]


def rows_of(*answers: tuple[tuple[str, tuple[str, ...]], str], kinds: str = "") -> list[dict]:
    """Rows of a model as an evaluation writes them; `kinds` has a letter for each."""
    return [
        {
            "question": question,
            "answers": list(accepted),
            "answer": answer,
            "exact_match": exact_match(answer, list(accepted)),
            "kind": kinds[place] if kinds else None,
        }
        for place, ((question, accepted), answer) in enumerate(answers)
    ]


def test_what_equals_an_accepted_answer_or_is_empty_is_graded_without_asking():
    grader = Grader()
    found = grade_answers({"base": rows_of((TOWN, "the Pellamire!"), (HERON, " \n"), (YEAR, "1922"))}, grader)
    assert [row["grade"] for row in found.rows] == [1.0, 0.0, 1.0]
    assert [row["p_yes"] for row in found.rows] == [None, None, 0.9]
    assert "the Pellamire!" not in grader.answers(TOWN[0])
    assert (found.figures["answers"], found.figures["asked"]) == (3, 1)


def test_an_answer_is_asked_once_however_many_models_give_it_and_again_for_another_question():
    grader = Grader()
    samples = {name: rows_of((TOWN, "Pellamore"), (HERON, "Pellamore")) for name in ("base", "one", "two")}
    figures = grade_answers(samples, grader).figures
    assert grader.answers(TOWN[0]).count("Pellamore") == 1
    assert grader.answers(HERON[0]).count("Pellamore") == 1
    assert (figures["answers"], figures["different"], figures["asked"]) == (6, 2, 2)


def test_the_grader_sees_the_question_and_every_accepted_answer_a_line():
    grader = Grader()
    grade_answers({"base": rows_of((HERON, "Captain\n Orse"))}, grader)
    assert (HERON[0], "Admiral\nthe Admiral\nAdmiral Orse", "Captain Orse") in grader.asked


@pytest.mark.parametrize(
    ("p_yes", "grade"), [("0.500000", 1.0), ("0.499999", 0.0), ("", None), (None, None), ("maybe", None)]
)
def test_a_yes_at_least_as_likely_as_a_no_is_right_and_neither_is_no_grade(p_yes, grade):
    found = grade_answers({"base": rows_of((TOWN, "Pellamore"))}, Grader({"Pellamore": p_yes}))
    assert found.rows[0]["grade"] == grade
    assert found.figures["ungraded"] == found.figures["models"]["base"]["ungraded"] == int(grade is None)


def test_a_models_mean_is_over_what_has_a_grade_and_its_error_too():
    """Grades 1 (exact), 1, 0 and none: mean 2/3, variance 1/3, error sqrt(1/9)."""
    rows = rows_of((TOWN, "Pellamire"), (HERON, "right"), (YEAR, "wrong"), (("Who?", ("Me",)), "unsaid"))
    found = grade_answers({"base": rows}, Grader({"wrong": "0.1", "unsaid": ""})).figures["models"]["base"]
    assert found["graded"] == pytest.approx(2 / 3)
    assert found["graded_se"] == pytest.approx(1 / 3)
    assert found["ungraded"] == 1
    assert found["agreement"] == pytest.approx(2 / 3)


def test_agreement_with_exact_match_is_over_the_answers_of_all_models():
    samples = {"base": rows_of((TOWN, "wrong"), (YEAR, "right")), "one": rows_of((TOWN, "wrong"), (YEAR, "1921"))}
    figures = grade_answers(samples, Grader({"wrong": "0.1"})).figures
    assert figures["agreement"] == 0.75
    assert [figures["models"][name]["agreement"] for name in samples] == [0.5, 1.0]


def test_a_model_without_any_grade_has_no_mean():
    figures = grade_answers({"base": rows_of((TOWN, "x"))}, Grader({"x": ""})).figures
    assert figures["models"]["base"]["graded"] is None
    assert figures["agreement"] is None
    assert "1 without a verdict); no question has a second" in describe_grades(figures)


def test_grades_are_split_by_kind_as_the_other_scores_are():
    rows = rows_of((TOWN, "wrong"), (HERON, "right"), (YEAR, "right"), kinds="aba")
    grades = grade_answers({"base": rows}, Grader({"wrong": "0.1"})).figures["models"]["base"]
    learning = {"n": 3, "f1": 0.2, "kinds": {"a": {"n": 2, "f1": 0.1}, "b": {"n": 1, "f1": 0.4}}}
    both = with_grades(learning, grades)
    assert (both["f1"], both["n"], both["graded"]) == (0.2, 3, pytest.approx(2 / 3))
    assert {kind: (block["f1"], block["graded"]) for kind, block in both["kinds"].items()} == {
        "a": (0.1, 0.5),
        "b": (0.4, 1.0),
    }
    assert "graded" not in learning


def test_where_all_questions_are_of_one_kind_no_kinds_appear():
    grades = grade_answers({"base": rows_of((TOWN, "x"))}, Grader()).figures["models"]["base"]
    assert "kinds" not in with_grades({"n": 1}, grades)


def test_a_second_answer_in_other_words_is_known_to_be_right_and_is_hidden():
    assert known_right([HERON, TOWN, YEAR]) == [
        (HERON[0], ("Admiral", "the Admiral"), "Admiral Orse"),
        (YEAR[0], ("1921",), "in 1921"),
    ]
    same = ("Who?", ("a heron", "Heron!", "The stork", "stork"))
    assert known_right([same]) == [("Who?", ("a heron", "Heron!"), "The stork")]


def test_the_answer_of_another_question_is_known_to_be_wrong():
    assert known_wrong([HERON, TOWN]) == [(*HERON, "Pellamire"), (*TOWN, "Admiral")]


def test_a_wrong_answer_shares_no_word_and_is_a_number_where_the_right_one_is():
    other = ("When did she die?", ("in 1921", "21"))
    moved = ("When did she move?", ("1940",))
    found = {question: wrong for question, _, wrong in known_wrong([YEAR, TOWN, other, HERON, moved])}
    assert found == {YEAR[0]: "1940", TOWN[0]: "Admiral", other[0]: "1940", HERON[0]: "Pellamire", moved[0]: "1921"}
    assert known_wrong([YEAR, other]) == []
    assert known_wrong([YEAR, TOWN])[0][2] == "Pellamire", "better than none"


def test_trials_are_limited_and_spread_over_the_file():
    questions = [(f"What is {place}?", (f"a{place}", f"b{place}")) for place in range(3 * MOST_TRIED)]
    for tried in (known_right(questions), known_wrong(questions)):
        assert [item.question for item in tried] == [question for question, _ in questions[::3]]


def test_what_the_grader_is_worth_is_the_share_that_it_tells_of_each():
    """Of the right ones it has one of two; of the wrong ones two of three, as no verdict tells nothing."""
    samples = {"base": rows_of((HERON, "Admiral"), (TOWN, "Pellamire"), (YEAR, "1921"))}
    says = {"Admiral Orse": "0.9", "in 1921": "0.2", "Pellamire": "0.1", "1921": "0.2", "Admiral": ""}
    found = grade_answers(samples, Grader(says))
    assert [(row["question"], row["answer"], row["known"], row["grade"]) for row in found.tried] == [
        (HERON[0], "Admiral Orse", 1.0, 1.0),
        (YEAR[0], "in 1921", 1.0, 0.0),
        (HERON[0], "Pellamire", 0.0, 0.0),
        (TOWN[0], "Admiral", 0.0, None),
        (YEAR[0], "Admiral", 0.0, None),
    ]
    assert found.figures["right"] == {"n": 2, "told": 0.5, "told_se": 0.5, "ungraded": 0}
    assert found.figures["wrong"]["told"] == pytest.approx(1 / 3)
    assert found.figures["wrong"]["ungraded"] == 2
    assert found.figures["asked"] == 0, "what it is tried on is counted apart"


@pytest.mark.parametrize(
    ("right", "wrong", "doubted"),
    [
        (1.0, 1.0, False),
        (LEAST_TOLD, LEAST_TOLD, False),
        (LEAST_TOLD - 0.01, 1.0, True),
        (1.0, LEAST_TOLD - 0.01, True),
        (None, 0.9, False),
        (None, 0.5, True),
        (None, None, False),
    ],
)
def test_a_grader_that_tells_too_few_of_either_is_doubted(right, wrong, doubted):
    tried = {"right": {"told": right, "told_se": 0.01, "n": 9}, "wrong": {"told": wrong, "told_se": 0.01, "n": 9}}
    figures = {**tried, "grader": "G", "asked": 1, "different": 2, "ungraded": 0, "agreement": 1.0}
    assert bool(doubt(figures)) == doubted
    assert ("Do not rely on the grades" in grading_note(figures)) == doubted


@pytest.mark.parametrize("says", ["1.0", "0.0"])
def test_a_grader_that_always_says_the_same_is_doubted(says):
    samples = {"base": rows_of((HERON, "x"), (TOWN, "y"), (YEAR, "z"))}
    assert doubt(grade_answers(samples, lambda rows, _: pl.Series([says] * rows.height)).figures)


def test_the_note_says_who_graded_and_what_that_is_worth():
    samples = {"base": rows_of((HERON, "x"), (TOWN, "Pellamire"), (YEAR, "z"))}
    says = {"x": "0.1", "z": "0.8", "Pellamire": "0.1", "Admiral": "0.1", "1921": "0.1"}
    figures = {"grader": "G", **grade_answers(samples, Grader(says)).figures}
    note = grading_note(figures)
    assert note.startswith("Graded by G, ")
    assert "2 of 3 different answers were put to the grader (0 without a verdict)" in note
    assert "66.7 % of grades are what exact match says" in note
    assert "100.0 % +- 0.0 % of 2 second answers of the questions' own right" in note
    assert "100.0 % +- 0.0 % of 3 answers of other questions wrong" in note


def test_without_second_answers_the_note_says_that_there_were_none():
    figures = grade_answers({"base": rows_of((TOWN, "x"))}, Grader()).figures
    assert figures["right"] == {"n": 0, "told": None, "told_se": None, "ungraded": 0}
    assert "; no question has a second accepted answer, so that nothing says whether it" in describe_grades(figures)


def test_the_template_says_all_before_the_answer_and_has_an_example_of_each_verdict():
    template = load_template(str(GRADING), variables=frozenset({"text", "question", "statement"}))
    assert template.answer == "yes_no"
    assert [example["answer"] for example in template.examples] == ["Yes", "No"]
    for example in template.examples:
        assert not exact_match(example["statement"], example["text"].split("\n")), "nobody would ask"
    content = template.messages(question="Who?", text="Me\nI", statement="You")[-1]["content"]
    assert content.endswith("Question: Who?\n\nAccepted answers:\nMe\nI\n\nGiven answer:\nYou")


def test_through_the_ledger_nothing_is_asked_twice(tmp_path):
    engines = []

    def engine() -> EchoEngine:
        engines.append(EchoEngine())
        return engines[-1]

    def graded(*answers):
        ask = make_ask(GenerateSettings(), ModelIdentity("m", "1"), Ledger(tmp_path), engine, lambda *_: None)
        return grade_answers({"base": rows_of(*answers)}, ask)

    first = graded((TOWN, "in Pellamire"), (HERON, "nobody here"))
    assert [row["p_yes"] for row in first.rows] == [0.5, 0.0]
    assert graded((TOWN, "in Pellamire"), (HERON, "nobody here")) == first
    assert len(engines) == 1
    assert graded((TOWN, "in Pellamire"), (HERON, "nobody")).rows[1]["p_yes"] == 0.0
    assert len(engines) == 2
