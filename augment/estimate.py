"""Estimate: what a study will ask and cost, from a sample of its chunks that is really asked.

The chunks that lack an answer are sampled at even distances, and everything is asked of these, follow-ups and
further attempts too. The answers stay in the ledger: the run that comes asks them no more. What remains is the
sample's mean per chunk times the chunks that remain, with the standard error of that.
NOT covered: that an engine with more to do at once is faster; seconds are an upper bound.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from active_reading.augment.engine import Engine
from active_reading.augment.generate import Progress, generate
from active_reading.augment.keys import key_of_id
from active_reading.augment.ledger import Ledger
from active_reading.augment.limits import BudgetSettings
from active_reading.augment.plan import ModelIdentity, Plan, Planner
from active_reading.augment.settings import GenerateSettings

COUNTS = ("requests", "prompt_tokens", "completion_tokens")


class Expected(NamedTuple):
    """A sum that is not known yet, with one standard error (NaN from a sample of one)."""

    value: float
    error: float


class Estimate(NamedTuple):
    """What a study lacks; the sample's own requests are no longer part of it."""

    num_answered: int  # requests that had an answer before
    num_sampled: int  # chunks
    num_asked: int  # requests of the sample
    sample_seconds: float  # without the engine's start
    num_chunks: int  # that still lack an answer
    templates: dict[str, dict[str, Expected]]  # COUNTS of each
    total: dict[str, Expected]  # COUNTS and `seconds`
    cost: float  # in the currency of the prices; 0 without any


def estimate(
    chunks: pl.DataFrame,
    settings: GenerateSettings,
    model: ModelIdentity,
    ledger: Ledger,
    make_engine: Callable[[], Engine],
    progress: Progress,
    num_sampled: int = 8,
) -> Estimate:
    """Ask `num_sampled` of the chunks that lack an answer, and extrapolate to the others.

    The budget of the settings does not stop the sample. Arguments and errors as those of `generate`.
    """
    work = Plan(Planner(settings, model), chunks).missing(ledger)
    num_answered = work.num_planned - work.missing.height
    lacking = chunks[work.missing["chunk"].unique().sort()]
    sample = lacking.gather_every(max(1, math.ceil(lacking.height / num_sampled)))
    began = [time.monotonic()]

    def start() -> Engine:
        engine = make_engine()
        began.append(time.monotonic())
        return engine

    free = settings.model_copy(update={"budget": BudgetSettings()})
    made = generate(sample, free, model, ledger, start, progress)
    seconds = time.monotonic() - began[-1]
    asked = made.rows.with_columns(key_of_id()).join(work.answered.to_frame("key"), on="key", how="anti")
    remaining = lacking.height - sample.height
    templates = {}
    for template in asked["template"].unique(maintain_order=True):
        templates[template] = _expected(asked.filter(template=template), sample, remaining)
    total = _expected(asked, sample, remaining)
    total["seconds"] = Expected(seconds / max(sample.height, 1) * remaining, math.nan)
    cost = settings.prices.cost(
        total["seconds"].value, total["prompt_tokens"].value, total["completion_tokens"].value
    )
    return Estimate(num_answered, sample.height, made.num_asked, seconds, remaining, templates, total, cost)


def _expected(asked: pl.DataFrame, sample: pl.DataFrame, remaining: int) -> dict[str, Expected]:
    sums = asked.group_by("chunk_id").agg(pl.len().alias("requests"), pl.col(*COUNTS[1:]).sum())
    per_chunk = sample.select("chunk_id").join(sums, on="chunk_id", how="left").fill_null(0)
    found = {}
    for name in COUNTS:
        numbers = per_chunk[name].cast(pl.Float64)
        spread = numbers.std() if numbers.len() > 1 else math.nan
        error = remaining * float(spread) / math.sqrt(numbers.len()) if numbers.len() else math.nan  # type: ignore[arg-type]
        found[name] = Expected(remaining * float(numbers.mean() or 0.0), error)  # type: ignore[arg-type]
    return found


def describe(found: Estimate) -> str:
    """The estimate as a table for the terminal."""
    lines = [f"{found.num_answered} requests are answered already"]
    if found.num_sampled:
        lines.append(
            f"a sample of {found.num_sampled} chunks: {found.num_asked} requests in {found.sample_seconds:.0f} s; "
            "their answers are kept"
        )
    if not found.num_chunks:
        return "\n".join([*lines, "nothing remains to be asked"])
    rows = [["still to ask", "requests", "prompt tokens", "answer tokens"]]
    for name, counts in [*found.templates.items(), ("all", found.total)]:
        rows.append([name, *(_rounded(counts[count]) for count in COUNTS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows), ""]
    minutes = found.total["seconds"].value / 60
    lines.append(
        f"of {found.num_chunks} chunks; +- is one standard error. At the sample's speed {minutes:.1f} minutes"
    )
    if found.cost:
        lines.append(f"cost at the given prices: {found.cost:.2f}")
    return "\n".join(lines)


def _rounded(expected: Expected) -> str:
    error = "" if math.isnan(expected.error) else f" +- {expected.error:,.0f}"
    return f"{expected.value:,.0f}{error}"
