"""What a report says in words: the verdict, the numbers to see first, numbers and settings as text."""

import re
from typing import Any, NamedTuple

from active_reading.eval.changes import Json, Point, Score, change, pairs_to_compare, points_of


class Learner(NamedTuple):
    """The model that learned most, by which of a point's numbers, and whether that is more than chance."""

    point: Point
    field: str  # f1 or answer_gain
    clear: bool


def learned_most(points: list[Point]) -> Learner | None:
    """By F1 among the models whose F1 rose clearly; where there is none, by the NLL of the gold answers among those
    where it fell clearly; else the highest F1, which is not clear. None when no trained model has an F1."""
    trained = [point for point in points if point.method is not None and point.f1.value is not None]
    for field, gain in (("f1", "f1_gain"), ("answer_gain", "answer_gain")):
        if rose := [point for point in trained if _rose(getattr(point, gain))]:
            return Learner(max(rose, key=lambda point: getattr(point, field).value or 0), field, True)
    return Learner(max(trained, key=lambda point: point.f1.value or 0), "f1", False) if trained else None


def verdict(results: Json) -> str:
    """One sentence: who learned most, what that cost, whether augmented data helped.

    By F1, unless no F1 rose clearly and the gold answers became clearly likelier: by these then.
    """
    points = points_of(results)
    before = next((point.f1 for point in points if point.method is None), Score(None))
    found = learned_most(points)
    if not found:
        return "No trained model has been measured."
    best, by_f1 = found.point, found.field == "f1"
    if not by_f1:
        learned = (
            f"{best.name} learned most: the NLL of the gold answers fell by {best.answer_gain} nats, "
            "though no F1 rose clearly"
        )
    elif found.clear:
        learned = f"{best.name} learned most, F1 {best.f1} against {Score(before.value)} for the base"
    elif best.f1_gain.value is None:
        learned = f"{best.name} scores highest, F1 {best.f1}"
    else:
        learned = f"No model clearly learned: the best, {best.name}, has F1 {best.f1} against {before} before"
    return "; ".join(filter(None, [learned, lost_clause(best.loss), data_clause(results, by_f1)])) + "."


def _rose(gain: Score) -> bool:
    return gain.is_clear() and (gain.value or 0) > 0


def lost_clause(loss: Score) -> str:
    if loss.value is None:
        return "what it forgot was not measured"
    change = f"NLL on older knowledge changed by {loss.signed()} nats"
    if loss.is_clear():
        return f"it forgot: {change}" if loss.value > 0 else f"it forgot nothing: {change}"
    return f"{change}, too little to tell from none"


def data_clause(results: Json, by_f1: bool) -> str:
    """On how many methods augmented data beat naive data; the best model of each pair counts."""
    pairs = [(a, b) for a, b in pairs_to_compare(results["models"]) if a["data"] == "naive"]
    key, name = ("f1", "F1") if by_f1 else ("answer_nll", "that NLL")
    gains = [change(results, after, before, "learning", key) for before, after in pairs]
    gains = gains if by_f1 else [gain.reversed() for gain in gains]
    won = [gain for gain in gains if (gain.value or 0) > 0]
    count = f"{len(won)} of {len(gains)} methods ({sum(gain.is_clear() for gain in won)} clearly)"
    return f"augmented data beat naive data on {name} for {count}" if gains else ""


def extremes(points: list[Point]) -> list[tuple[str, str, str]]:
    """The numbers to see first: label, model, value."""
    trained = [point for point in points if point.method is not None]
    lost = sorted(filter(lambda p: p.loss.value is not None, trained), key=lambda p: p.loss.value or 0)
    rows = []
    if best := learned_most(points):
        by_f1 = "Learned most, F1" if best.clear else "Highest F1, not clearly learned"
        label = by_f1 if best.field == "f1" else "Learned most, fall of the gold answers' NLL"
        rows = [(label, best.point.name, str(getattr(best.point, best.field)))]
    rows += [("Forgot least, NLL", point.name, point.loss.signed()) for point in lost[:1]]
    return rows + [("Forgot most, NLL", point.name, point.loss.signed()) for point in lost[1:][-1:]]


def typeset(text: str) -> str:
    """Typographic signs in place of ASCII ones; a hyphen inside a name stays one."""
    return "\u2013" if text == "-" else re.sub(r"(?<!\w)-(?=\d)", "\u2212", text.replace("+-", "\u00b1"))


def plain(value: Any) -> str:
    """Any setting or count as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "\u2013" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def duration(seconds: float | None) -> str:
    if seconds is None or seconds < 60:
        return "\u2013" if seconds is None else f"{seconds:.1f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
