"""Grades: the models' closed-book answers -> right or wrong, by the word of a model that sees the accepted answers.

F1 and exact match compare words. The grader is asked, once for each different answer, whether it says the same as
an accepted one, and what counts is the probability of a yes. An answer that equals an accepted one is right without
asking, and an empty one wrong. What the grader is worth is measured beside it: on second answers of the questions'
own, which are right and are not shown to it as accepted, and on answers of other questions.
NOT covered: general questions and ceilings; whether two questions have one answer in different words.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from active_reading.eval.made_questions import Ask
from active_reading.eval.questions import by_kind, evenly
from active_reading.eval.scores import exact_match, f1, mean_and_error
from active_reading.prompts.render import JUDGING

GRADING = JUDGING / "grade.j2"
LEAST_YES = 0.5  # P(yes) from which an answer is right
MOST_TRIED = 200  # right ones, and as many wrong ones, on which the grader is tried
LEAST_TOLD = 0.75  # of either; below it the user is warned. Whoever always says the same tells none of one of them
Row = dict[str, Any]


class Item(NamedTuple):
    """An answer to be graded."""

    question: str
    accepted: tuple[str, ...]
    answer: str


class Graded(NamedTuple):
    """Grades are 1.0 (right), 0.0 (wrong) or None where the grader gives no verdict."""

    rows: list[Row]  # one a different answer: an `Item`'s fields, `p_yes` (None where not asked, too) and `grade`
    tried: list[Row]  # the same for what the grader was tried on, with the grade that is `known`
    figures: dict[str, Any]


def grade_answers(samples: Mapping[str, Sequence[Row]], ask: Ask) -> Graded:
    """Grade the answers of all models, all in one go.

    `samples` are each model's rows: `question`, `answers` (the accepted ones), `answer`, `exact_match` and `kind`.
    Figures: of each of the `models` what `with_grades` takes; `answers` (of all models), `different`, `asked` and
    `ungraded` (of the different ones); `agreement`, the share of grades that are what exact match says; and of the
    known `right` and `wrong` ones `n`, `told` (the share that the grader tells, None of none) with its standard
    error, and how many are `ungraded`. Raises what `ask` raises.
    """
    items = {name: [_item(row) for row in rows] for name, rows in samples.items()}
    different = list(dict.fromkeys(item for each in items.values() for item in each))
    questions = list(dict.fromkeys(item[:2] for item in different))
    right, wrong = known_right(questions), known_wrong(questions)
    asked = [item for item in dict.fromkeys([*different, *right, *wrong]) if _settled(item) is None]
    p_yes = dict(zip(asked, _probabilities(asked, ask), strict=True))

    def grade(item: Item) -> float | None:
        probability = p_yes.get(item)
        return _settled(item) if probability is None else float(probability >= LEAST_YES)

    def line(item: Item) -> Row:
        return {**item._asdict(), "p_yes": p_yes.get(item), "grade": grade(item)}

    graded = {
        name: [{**row, "graded": grade(item)} for row, item in zip(samples[name], items[name], strict=True)]
        for name in samples
    }
    everything = _summary([row for rows in graded.values() for row in rows])
    figures = {
        "answers": sum(map(len, items.values())),
        "different": len(different),
        "asked": sum(item in p_yes for item in different),
        "ungraded": sum(grade(item) is None for item in different),
        "agreement": everything["agreement"],
        "right": _told([grade(item) for item in right], 1.0),
        "wrong": _told([grade(item) for item in wrong], 0.0),
        "models": {
            name: _summary(rows) | {"kinds": {kind: _summary(part) for kind, part in by_kind(rows).items()}}
            for name, rows in graded.items()
        },
    }
    tried = [line(item) | {"known": known} for part, known in ((right, 1.0), (wrong, 0.0)) for item in part]
    return Graded([line(item) for item in different], tried, figures)


def with_grades(learning: Row, grades: Row) -> Row:
    """A model's scores on the gold questions with its grades, of each kind of question too."""
    kinds = {kind: block | grades["kinds"][kind] for kind, block in learning.get("kinds", {}).items()}
    own = {key: value for key, value in grades.items() if key != "kinds"}
    return learning | own | ({"kinds": kinds} if kinds else {})


def describe_grades(figures: Row) -> str:
    """What was asked, and what the grader is worth: two clauses."""
    agreement = figures["agreement"]
    agreed = "" if agreement is None else f", and {100 * agreement:.1f} % of grades are what exact match says"
    right = f"it graded {_share(figures['right'])} second answers of the questions' own right, and"
    if figures["right"]["told"] is None:
        right = (
            "no question has a second accepted answer, so that nothing says whether it knows a right one; it graded"
        )
    return (
        f"{figures['asked']} of {figures['different']} different answers were put to the grader "
        f"({figures['ungraded']} without a verdict){agreed}; {right} {_share(figures['wrong'])} answers of other "
        "questions wrong"
    )


def grading_note(figures: Row) -> str:
    """What a report says below the grades."""
    note = (
        f"Graded by {figures['grader']}, which was shown the accepted answers; what equals one of them is right "
        f"without asking. {describe_grades(figures)}."
    )
    why = doubt(figures)
    return f"{note} Do not rely on the grades: {why}." if why else note


def doubt(figures: Row) -> str | None:
    """Why the grades should not be believed, if so."""
    told = [figures[known]["told"] for known in ("right", "wrong")]
    if all(share is None or share >= LEAST_TOLD for share in told):
        return None
    return "the grader hardly tells right answers from wrong ones: name a larger model in evaluate.grade"


def known_right(questions: Collection[tuple[str, tuple[str, ...]]]) -> list[Item]:
    """Of questions with a second accepted answer in other words, that one, which is taken from the accepted."""
    found = []
    for question, accepted in questions:
        other = next((answer for answer in accepted if not exact_match(answer, [accepted[0]])), None)
        if other is not None:
            found.append(Item(question, tuple(a for a in accepted if not exact_match(a, [other])), other))
    return [found[place] for place in evenly(len(found), MOST_TRIED)]


def known_wrong(questions: Sequence[tuple[str, tuple[str, ...]]]) -> list[Item]:
    """Each question with the answer of the next one, in a circle, whose answer shares no word with its own.

    With a number where its own has one, if there is such an answer: one of another sort is no trial.
    """
    found = []
    for place in evenly(len(questions), MOST_TRIED):
        question, accepted = questions[place]
        others = [answers[0] for _, answers in (*questions[place + 1 :], *questions[:place])]
        others.sort(key=lambda answer: _has_digit(answer) != _has_digit(accepted[0]))
        wrong = next((answer for answer in others if not f1(answer, list(accepted))), None)
        if wrong is not None:
            found.append(Item(question, accepted, wrong))
    return found


def _item(row: Row) -> Item:
    return Item(row["question"], tuple(row["answers"]), row["answer"])


def _settled(item: Item) -> float | None:
    """The grade of what need not be asked."""
    if exact_match(item.answer, list(item.accepted)):
        return 1.0
    return None if item.answer.strip() else 0.0


def _probabilities(items: Sequence[Item], ask: Ask) -> pl.Series:
    """P(yes) of each; null where the grader says neither yes nor no."""
    lines = [(item.question, "\n".join(map(_one_line, item.accepted)), _one_line(item.answer)) for item in items]
    rows = pl.DataFrame(lines, dict.fromkeys(("question", "text", "statement"), pl.String), orient="row")
    return ask(rows, str(GRADING)).cast(pl.Float64, strict=False)


def _summary(rows: Sequence[Row]) -> Row:
    graded = [row for row in rows if row["graded"] is not None]
    mean, error = mean_and_error([row["graded"] for row in graded]) if graded else (None, None)
    same = sum(row["graded"] == row["exact_match"] for row in graded)
    return {
        "graded": mean,
        "graded_se": error,
        "ungraded": len(rows) - len(graded),
        "agreement": same / len(graded) if graded else None,
    }


def _told(grades: Sequence[float | None], known: float) -> Row:
    share, error = mean_and_error([float(grade == known) for grade in grades]) if grades else (None, None)
    return {"n": len(grades), "told": share, "told_se": error, "ungraded": grades.count(None)}


def _share(found: Row) -> str:
    if found["told"] is None:
        return "0 of 0"
    return f"{100 * found['told']:.1f} % +- {100 * found['told_se']:.1f} % of {found['n']}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _has_digit(text: str) -> bool:
    return any(letter.isdigit() for letter in text)
