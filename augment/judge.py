"""Judge: kept texts -> texts that a model, reading their chunk, stands by; and those that it does not.

A running text is put to the judge as a statement beside its chunk, and what counts is the probability of a yes as
its first token. Which probability is too low is not guessed: false facts are planted into some of the texts
(`planting.py`), and the threshold is the one at which no more than `max_false_rejects` of the untouched texts fall.
A judge that cannot tell them apart then drops few texts, and its figures say so.
A question-answer pair is kept when the judge, asked the question beside the chunk, gives an answer that agrees.
What the judge gives no verdict on (a prompt beyond the context, neither yes nor no) is kept, and counted.
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from active_reading.augment.engine import Engine
from active_reading.augment.funnel import STATUS, check_requests, request_counts
from active_reading.augment.generate import Progress, generate
from active_reading.augment.grounding import OPENERS
from active_reading.augment.ledger import Ledger
from active_reading.augment.plan import ModelIdentity
from active_reading.augment.planting import falsified, names_in
from active_reading.augment.quantities import numbers
from active_reading.augment.settings import GenerateSettings, TemplateUse
from active_reading.prompts.render import JUDGING, VARIABLES

logger = logging.getLogger(__name__)
STATEMENT = str(JUDGING / "statement.j2")
QUESTION = str(JUDGING / "question.j2")
ASKED = VARIABLES | {"statement", "question"}  # what templates of a judge may use
PAIR = re.compile(r"Question: (?P<question>.*)\nAnswer: (?P<answer>.*)", re.DOTALL)
MOST_PLANTED = 200  # texts to calibrate on
LEAST_PLANTED = 20
LEAST_AUC = 0.6  # below it the user is warned
ANSWER_TOKENS = 32
LEAST_AGREEMENT = 0.5  # of the words of two answers (F1)
# One answer per row, null where there is none, to a template asked of the rows' columns.
Ask = Callable[[pl.DataFrame, str], pl.Series]


class JudgeSettings(BaseModel):
    """Whether a model checks what the filter kept, and which."""

    model_config = ConfigDict(extra="forbid")

    statements: bool = Field(False, description="texts must be what the judge finds in their chunk")
    answers: bool = Field(
        False, description="a question's answer must be the one that the judge reads in the chunk"
    )
    model: str = Field(
        "",
        description="another model than the study's: a Hugging Face id, a folder, or with an endpoint "
        "its name there",
    )
    max_false_rejects: float = Field(0.05, gt=0, lt=1, description="share of true texts that may fall")

    @property
    def is_on(self) -> bool:
        return self.statements or self.answers


class Judged(NamedTuple):
    """The rows that were judged, in their order, with `reason` and `detail` (null when kept); and figures."""

    rows: pl.DataFrame
    figures: dict[str, Any]


def judge_texts(
    kept: pl.DataFrame, answers: Mapping[str, str], chunks: pl.DataFrame, settings: JudgeSettings, ask: Ask
) -> Judged:
    """Judge the filter's kept texts.

    `kept` has `id`, `chunk_id`, `template` and `text`; `answers` maps a template's name to what it answers;
    `chunks` has `chunk_id` and `text`. Raises what `ask` raises.
    """
    # Columns without any value have no type of their own.
    kept = kept.cast(dict.fromkeys(("id", "chunk_id", "template", "text"), pl.String))
    sources = chunks.select("chunk_id", source="text").cast(pl.String)
    rows = kept.join(sources, on="chunk_id", how="left", maintain_order="left")
    is_pair = pl.col("template").is_in([name for name, answer in answers.items() if answer == "questions"])
    verdicts, figures = [], {}
    if settings.statements:
        found, figures["statements"] = _judge_statements(rows.filter(~is_pair), settings, ask)
        verdicts.append(found)
    if settings.answers:
        found, figures["answers"] = _judge_answers(rows.filter(is_pair), ask)
        verdicts.append(found)
    schema = {"id": pl.String, "reason": pl.String, "detail": pl.String}
    fallen = pl.DataFrame([row for found in verdicts for row in found], schema=schema, orient="row")
    return Judged(kept.join(fallen, on="id", how="left", maintain_order="left"), figures)


def make_ask(
    settings: GenerateSettings,
    model: ModelIdentity,
    ledger: Ledger,
    make_engine: Callable[[], Engine],
    progress: Progress,
    max_tokens: int = ANSWER_TOKENS,
    cut: bool = False,
    on_failed: Callable[[int], None] = lambda number: None,
) -> Ask:
    """Asks an engine as `generate` does, drawing nothing at random; what the ledger has is not asked again.

    An answer that was cut (at `max_tokens`, or because it went round in circles) is none, unless `cut` wants those.
    `on_failed` is told how many requests failed, each time that something is asked.
    """

    def ask(rows: pl.DataFrame, template: str) -> pl.Series:
        different = rows.unique(maintain_order=True).with_row_index("chunk_id").cast({"chunk_id": pl.String})
        uses = [TemplateUse(template=template, max_tokens=max_tokens)]
        plain = {"templates": uses, "temperature": 0.0, "top_p": 1.0, "seed": 0}
        made = generate(different, settings.model_copy(update=plain), model, ledger, make_engine, progress, ASKED)
        counts = request_counts(made.rows, made.num_planned)
        check_requests(counts)
        on_failed(counts["failed"])
        wanted = pl.col("error").is_null() if cut else STATUS == "accepted"
        answered = made.rows.filter(wanted)
        answers = different.join(answered.select("chunk_id", answer="text"), on="chunk_id", how="left")
        asked = answers.drop("chunk_id")
        return rows.join(asked, on=rows.columns, how="left", maintain_order="left")["answer"]

    return ask


Fallen = list[tuple[str, str, str]]  # id, reason, detail


def _judge_statements(rows: pl.DataFrame, settings: JudgeSettings, ask: Ask) -> tuple[Fallen, dict[str, Any]]:
    planted = plant(rows)
    asked = pl.concat([rows.select("source", statement="text"), planted.select("source", "statement")])
    scores = _yes(ask(asked.rename({"source": "text"}), STATEMENT))
    of_row = dict(zip(rows["id"], scores[: rows.height], strict=True))
    pairs = planted.with_columns(false=scores[rows.height :]).with_columns(
        true=pl.col("id").replace_strict(of_row, return_dtype=pl.Float64)
    )
    threshold, figures = calibrate(pairs.drop_nulls(["true", "false"]), settings.max_false_rejects)
    fallen = [
        (row, "judged_false", f"P(yes) {score:.3f} < {threshold:.3f}")
        for row, score in of_row.items()
        if score is not None and score < threshold
    ]
    return fallen, {
        "texts": rows.height,
        "fallen": len(fallen),
        "unjudged": scores[: rows.height].null_count(),
        **figures,
    }


def plant(rows: pl.DataFrame) -> pl.DataFrame:
    """Texts with one false fact each: `id` and `source` of the true text, `statement`, `kind`.

    At most `MOST_PLANTED`, of rows drawn by their ids (which are hashes), the kinds in turn.
    """
    everyone = names_in(rows["source"].unique().to_list())
    planted: list[tuple[str, str, str, str]] = []
    made: Counter[str] = Counter()
    for identifier, text, source in rows.sort("id").select("id", "text", "source").iter_rows():
        if len(planted) == MOST_PLANTED:
            break
        here = source.casefold()
        foreign = [name for name in everyone if name.casefold() not in here]
        facts = dict(falsified(text, foreign, random.Random(identifier)))
        choices = [kind for kind, false in facts.items() if false != text]
        if choices:
            kind = min(choices, key=lambda each: made[each])
            made[kind] += 1
            planted.append((identifier, source, facts[kind], kind))
    schema = dict.fromkeys(("id", "source", "statement", "kind"), pl.String)
    return pl.DataFrame(planted, schema=schema, orient="row")


def calibrate(pairs: pl.DataFrame, max_false_rejects: float) -> tuple[float, dict[str, Any]]:
    """The threshold on P(yes), and what a threshold chosen so is worth on texts that did not choose it.

    `pairs` has `true` and `false` (P(yes) of a text and of the same with a false fact) and `kind`. Figures:
    `planted` (pairs), `recall` (of planted facts, in all and by kind), `false_rejects` (of true texts), `precision`
    (of what falls, where one text of two is false), each of one half at the threshold of the other; `auc`, the
    chance that a true text scores above a false one. With fewer than `LEAST_PLANTED` pairs the threshold is 0:
    nothing falls.
    """
    if pairs.height < LEAST_PLANTED:
        logger.warning(
            "judge: false facts could be planted into %d texts only, of %d needed to calibrate: no text falls",
            *(pairs.height, LEAST_PLANTED),
        )
        return 0.0, {"planted": pairs.height, "threshold": 0.0}

    def threshold(part: pl.DataFrame) -> float:
        ordered = part["true"].sort()
        return float(ordered[int(max_false_rejects * part.height)])

    halves = [pairs.gather_every(2), pairs.gather_every(2, offset=1)]
    marked = pl.concat(
        half.with_columns(found=pl.col("false") < threshold(other), lost=pl.col("true") < threshold(other))
        for half, other in (halves, halves[::-1])
    )
    recall, lost = float(marked["found"].mean()), float(marked["lost"].mean())  # type: ignore[arg-type]
    ranks = pl.concat([pairs["false"], pairs["true"]]).rank()
    count = pairs.height
    auc = (float(ranks[count:].sum()) - count * (count + 1) / 2) / count**2
    if auc < LEAST_AUC:
        logger.warning(
            "judge: it hardly tells texts from the same with a false fact (%.0f %% of pairs in the right order; "
            "chance is 50 %%): what it drops is little better than drawn; name a larger model in judge.model",
            100 * auc,
        )
    by_kind = marked.group_by("kind").agg(pl.col("found").mean()).sort("kind")
    return threshold(pairs), {
        "planted": count,
        "threshold": threshold(pairs),
        "recall": recall,
        "recall_by_kind": dict(by_kind.iter_rows()),
        "false_rejects": lost,
        "precision": recall / (recall + lost) if recall + lost else None,
        "auc": float(auc),
    }


def _judge_answers(rows: pl.DataFrame, ask: Ask) -> tuple[Fallen, dict[str, Any]]:
    parts = [match for text in rows["text"] if (match := PAIR.fullmatch(text))]
    questions = rows.select("id", text="source").with_columns(
        question=pl.Series([match["question"] for match in parts], dtype=pl.String)
    )
    read = ask(questions.drop("id"), QUESTION)
    fallen = [
        (identifier, "other_answer", f"the judge reads '{' '.join(answer.split())[:80]}'")
        for identifier, match, answer in zip(rows["id"], parts, read, strict=True)
        if answer and not answers_agree(match["answer"], answer)
    ]
    unjudged = sum(not answer for answer in read)
    return fallen, {"texts": rows.height, "fallen": len(fallen), "unjudged": unjudged}


def answers_agree(written: str, read: str) -> bool:
    """Whether two answers to one question say the same: their numbers are equal, and so are most other words.

    An answer that holds all of the other agrees with it, too: "in 1912" and "the potter made them in 1912".
    """
    if (
        numbers(written)
        and numbers(read)
        and not (numbers(written) <= numbers(read) or numbers(read) <= numbers(written))
    ):
        return False
    first, second = _content(written), _content(read)
    common = (first & second).total()
    if not common:
        return False
    if common in (first.total(), second.total()):
        return True
    return 2 * common / (first.total() + second.total()) >= LEAST_AGREEMENT


def _content(answer: str) -> Counter[str]:
    """Words that carry meaning, numbers as their values; of an answer without any (such as "yes"), all words."""
    words = re.findall(r"\w+", answer.casefold())
    values = numbers(answer)
    content = [word.removesuffix("s") for word in words if word not in OPENERS and not numbers(word)]
    return Counter([*content, *values] or words)


def _yes(answers: pl.Series) -> pl.Series:
    return answers.cast(pl.Float64, strict=False)
