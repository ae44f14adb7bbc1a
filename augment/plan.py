"""The plan: which requests a study makes of its chunks, as a table.

A request is addressed by what determines its answer: chunk text, template source, strategy, model and revision,
sampling, replicate (`keys.py`). Millions of them are rows of numbers; a prompt is rendered when its turn comes.
With `attempts`, what was rejected is asked again under new replicates, until enough answers are accepted.
NOT covered: what is asked and when (`generate.py`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from active_reading.augment.engine import TOO_LONG, Sampling
from active_reading.augment.funnel import REJECTION, STATUS
from active_reading.augment.json_answers import plain_answer
from active_reading.augment.keys import KEY, part_key, request_id, text_keys
from active_reading.augment.ledger import Ledger
from active_reading.augment.settings import GenerateSettings, TemplateUse
from active_reading.prompts.render import VARIABLES, Template, load_template

FIXED = ("num_items", "task")  # what a template is told by the study, and not by the chunk


@dataclass(frozen=True)
class ModelIdentity:
    """Which weights answer: a name for people and a hash of their content."""

    name: str
    revision: str


@dataclass(frozen=True)
class Recipe:
    """One way to ask about a chunk: everything that determines the answers but the chunk, the strategy and the
    replicate."""

    use: TemplateUse
    template: Template
    applies: bool  # a strategy that another recipe's answer proposes
    max_tokens: int
    key: int
    told: tuple[str, ...]  # what the template tells of the chunk: names of its columns

    @property
    def proposes(self) -> bool:
        return self.use.apply is not None and not self.applies

    @property
    def replicates(self) -> int:
        return 1 if self.proposes else self.use.replicates

    @property
    def attempts(self) -> int:
        """At most so many replicates are asked."""
        return self.replicates if self.proposes or self.use.attempts is None else self.use.attempts

    @property
    def may_repeat(self) -> bool:
        return self.attempts > self.replicates


@dataclass(frozen=True)
class Request:
    """One planned question to the engine."""

    key: int
    chunk_id: str
    recipe: Recipe
    values: dict[str, Any]
    strategy: str | None
    replicate: int
    sampling: Sampling

    @property
    def request_id(self) -> str:
        return request_id(self.key)

    @property
    def template(self) -> Template:
        return self.recipe.template


class Planner:
    """Knows the recipes of a study; raises ValueError where its templates do not go together."""

    def __init__(
        self, settings: GenerateSettings, model: ModelIdentity, variables: frozenset[str] = VARIABLES
    ) -> None:
        self.settings = settings
        self.model = model
        self.templates: dict[str, Template] = {}
        self.recipes: list[Recipe] = []
        for use in settings.templates:
            for name in (use.template, use.apply):
                if name is not None:
                    self.templates[name] = load_template(name, settings.template_folder, variables)
            self._check(use)
            self.recipes.append(self._recipe(use, use.template, use.max_tokens))
            if use.apply is not None:
                self.recipes.append(self._recipe(use, use.apply, use.apply_max_tokens))
        self._check_names()

    def _recipe(self, use: TemplateUse, name: str, max_tokens: int) -> Recipe:
        template, drawn = self.templates[name], self.settings
        # Only what the template uses decides the key: a renamed file keeps its answers.
        fixed = _fixed(use, template)
        key = part_key(
            "recipe",
            template.hash,
            fixed,
            [self.model.name, self.model.revision],
            [drawn.temperature, drawn.top_p, max_tokens, drawn.seed],
        )
        told = tuple(sorted(template.variables - {*FIXED, "strategy"}))
        return Recipe(use, template, template.needs_strategy, max_tokens, key, told)

    def _check(self, use: TemplateUse) -> None:
        template = self.templates[use.template]
        if template.answer == "yes_no" and template.variables <= VARIABLES:
            raise ValueError(f"template '{use.template}' answers yes or no, and that is no text to learn")
        about_a_task = [
            name for name in (use.template, use.apply) if name and "task" in self.templates[name].variables
        ]
        if about_a_task and not use.task.strip():
            raise ValueError(
                f"template '{about_a_task[0]}' needs a task, such as "
                f"{{template: {use.template}, task: pass a driving test}}"
            )
        if use.task and not about_a_task:
            raise ValueError(
                f"template '{use.template}' does not use 'task': leave it out, or take another template"
            )
        if template.needs_strategy:
            raise ValueError(f"template '{use.template}' needs a strategy: name it in 'apply' of another one")
        if template.answer == "strategies" and use.apply is None:
            raise ValueError(f"template '{use.template}' proposes strategies: name in 'apply' what applies them")
        if template.answer != "strategies" and use.apply is not None:
            raise ValueError(
                f"generate.templates: 'apply' goes with a template whose answer is strategies, "
                f"and '{use.template}' answers {template.answer}"
            )
        if use.apply is not None and not self.templates[use.apply].needs_strategy:
            raise ValueError(f"template '{use.apply}' does not use 'strategy' and cannot apply one")

    def _check_names(self) -> None:
        """Rows, counts and the card tell templates apart by name alone."""
        hashes: dict[str, str] = {}
        for template in self.templates.values():
            if template.name == "chunk":
                raise ValueError(
                    "a template cannot be named 'chunk', which marks the documents' own text: rename it"
                )
            if hashes.setdefault(template.name, template.hash) != template.hash:
                raise ValueError(f"two different templates are named '{template.name}': rename one of the files")


def _fixed(use: TemplateUse, template: Template) -> dict[str, Any]:
    """What the template is told by the study, and not by the chunk."""
    return {field: getattr(use, field) for field in FIXED if field in template.variables}


def parse_strategies(text: str) -> list[str]:
    """Strategies in a model's answer: headings or list items, in order, without repeats."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:#+|[-*]|\d+[.)])\s*(.+)", line)
        strategy = match.group(1).replace("**", "").strip(" *#:") if match else ""
        if len(strategy.split()) >= 3:
            found.setdefault(strategy.casefold(), strategy)
    return list(found.values())


# The plan as a table, in the order of asking. Of one key there may be several rows: the same text in two chunks.
PLAN: dict[str, Any] = {
    "key": KEY,
    "chunk": pl.UInt32,  # row of the chunks
    "recipe": pl.UInt16,  # place in the planner's recipes
    "place": pl.UInt16,  # of the strategy in the answer that proposes it
    "replicate": pl.UInt32,
    "strategy": pl.String,
}


class Work(NamedTuple):
    """What a plan asks for, and what of it is still to do."""

    table: pl.DataFrame  # all rows of the plan
    num_planned: int  # requests, each counted once
    missing: pl.DataFrame  # rows of those that have no answer yet, once each
    answered: pl.Series  # keys of all answers in the ledger, the plan's or not


class Plan:
    """The requests that a planner's recipes make of a table of chunks."""

    def __init__(self, planner: Planner, chunks: pl.DataFrame) -> None:
        self.planner = planner
        heading = pl.col("heading").fill_null("") if "heading" in chunks.columns else pl.lit("")
        self.chunks = chunks.with_columns(heading=heading)
        self._told: dict[tuple[str, ...], pl.Series] = {}
        for recipe in planner.recipes:
            if recipe.told not in self._told:
                texts = {name: text_keys(name, self.chunks[name]) for name in recipe.told}
                self._told[recipe.told] = _xor(list(texts.values()))

    def initial(self) -> pl.DataFrame:
        """Requests that depend on nothing but the chunk, chunk by chunk."""
        told = list(self._told)
        asked = [
            (place, replicate, told.index(recipe.told), recipe.key ^ part_key("replicate", replicate))
            for place, recipe in enumerate(self.planner.recipes)
            if not recipe.applies
            for replicate in range(recipe.replicates)
        ]
        schema: dict[str, Any] = {"recipe": pl.UInt16, "replicate": pl.UInt32, "told": pl.UInt16, "how": KEY}
        recipes = pl.LazyFrame(asked, schema=schema, orient="row")
        keys = {f"told {number}": series for number, series in enumerate(self._told.values())}
        chunks = pl.LazyFrame(keys).with_row_index("chunk") if keys else pl.LazyFrame(schema={"chunk": pl.UInt32})
        key = pl.lit(None, dtype=KEY)
        for number, name in enumerate(keys):
            key = pl.when(pl.col("told") == number).then(pl.col(name) ^ pl.col("how")).otherwise(key)
        nothing = pl.lit(None, dtype=pl.String)
        table = chunks.join(recipes, how="cross", maintain_order="left_right").with_columns(
            key=key, place=pl.lit(0, dtype=pl.UInt16), strategy=nothing
        )
        return table.select(PLAN.keys()).collect()

    def follow_ups(self, chunk: int, recipe: int, answer: str, finish_reason: str | None) -> list[tuple[Any, ...]]:
        """Rows of the requests that apply the strategies in an answer of `recipe`; none for other recipes."""
        proposing = self.planner.recipes[recipe]
        if not proposing.proposes:
            return []
        if proposing.template.schema:
            answer = plain_answer(answer)
        elif finish_reason != "stop":  # the cut went through the last line
            answer = answer.rpartition("\n")[0]
        applying = self.planner.recipes[recipe + 1]
        told = applying.key ^ self._told[applying.told].item(chunk)
        return [
            (
                told ^ part_key("strategy", strategy) ^ part_key("replicate", number),
                chunk,
                recipe + 1,
                place,
                number,
                strategy,
            )
            for place, strategy in enumerate(parse_strategies(answer)[: proposing.use.num_items])
            for number in range(applying.replicates)
        ]

    def complete(self, ledger: Ledger) -> pl.DataFrame:
        """All requests that are known by now: the initial ones, and what follows from the ledger's answers."""
        table = self.initial()
        proposing = [place for place, recipe in enumerate(self.planner.recipes) if recipe.proposes]
        proposals = table.filter(pl.col("recipe").is_in(proposing))
        if proposals.height:
            answers = ledger.rows_of(proposals).filter(pl.col("error").is_null())
            answered = proposals.join(answers.select("key", "text", "finish_reason"), on="key")
            answered = answered.select("chunk", "recipe", "text", "finish_reason")
            follow_ups = self.table(row for answer in answered.iter_rows() for row in self.follow_ups(*answer))
            table = pl.concat([table, follow_ups])
        if self.may_ask_again:
            table = self._with_attempts(table, ledger)
        in_order = not (proposals.height or self.may_ask_again)
        return table if in_order else table.sort("chunk", "recipe", "place", "replicate")

    @property
    def grows(self) -> bool:
        """Whether answers decide what else is asked."""
        return self.may_ask_again or any(recipe.proposes for recipe in self.planner.recipes)

    @property
    def may_ask_again(self) -> bool:
        """Whether a recipe wants a number of accepted answers, so that rejected ones make more requests."""
        return any(recipe.may_repeat for recipe in self.planner.recipes)

    def _with_attempts(self, table: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
        """The table, and further replicates in place of those that were rejected.

        Of a recipe on a chunk (and strategy) as many are added as are lacking, once all that were asked before have
        their answers: what is asked depends on the answers, not on when they came. None are added for
        a prompt that is too long, which the same words would be again, nor while a request may still succeed.
        """
        wanted = [(place, r.replicates, r.attempts) for place, r in enumerate(self.planner.recipes) if r.may_repeat]
        limits = pl.DataFrame(
            wanted, {"recipe": pl.UInt16, "replicates": pl.Int64, "attempts": pl.Int64}, orient="row"
        )
        added = table.join(limits, on="recipe", how="semi")
        while added.height:
            asked = table.join(limits, on="recipe", maintain_order="left")
            became = ledger.rows_of(asked).select("key", status=STATUS, rejection=REJECTION)
            groups = (
                asked.join(became, on="key", how="left", maintain_order="left")
                .group_by("chunk", "recipe", "place", "strategy", "replicates", "attempts", maintain_order=True)
                .agg(
                    pl.col("key").filter(replicate=0).first(),
                    asked=pl.len().cast(pl.Int64),
                    accepted=(pl.col("status") == "accepted").sum().cast(pl.Int64),
                    is_open=(pl.col("status").is_null() | (pl.col("status") == "failed")).any(),
                    is_too_long=(pl.col("rejection") == TOO_LONG).any(),
                )
                .filter(~pl.col("is_open"), ~pl.col("is_too_long"))
            )
            lacking = pl.min_horizontal(
                pl.col("replicates") - pl.col("accepted"), pl.col("attempts") - pl.col("asked")
            )
            groups = groups.with_columns(lacking=lacking).filter(pl.col("lacking") > 0)
            added = self.table(
                (
                    key ^ part_key("replicate", 0) ^ part_key("replicate", number),
                    *(chunk, recipe, place, number, strategy),
                )
                for key, chunk, recipe, place, strategy, first, count in groups.select(
                    "key", "chunk", "recipe", "place", "strategy", "asked", "lacking"
                ).iter_rows()
                for number in range(first, first + count)
            )
            table = pl.concat([table, added])
        return table

    def missing(self, ledger: Ledger, failed: Sequence[int] = ()) -> "Work":
        """The plan, and what of it the ledger does not answer, without the requests in `failed` (keys)."""
        table = self.complete(ledger)
        distinct = table.unique("key", keep="first", maintain_order=True)
        answered = ledger.answered()
        done = pl.concat([answered, pl.Series(failed, dtype=KEY)]).to_frame("key")
        missing = distinct.join(done, on="key", how="anti", maintain_order="left")
        return Work(table, distinct.height, missing, answered)

    def table(self, rows: Iterable[tuple[Any, ...]]) -> pl.DataFrame:
        return pl.DataFrame(list(rows), schema=PLAN, orient="row")

    def requests(self, table: pl.DataFrame) -> Iterator[Request]:
        """The requests of a plan's rows, made one by one as they are taken."""
        for row in table.iter_rows():
            yield self.request(*row)

    def request(self, key: int, chunk: int, recipe: int, _: int, replicate: int, strategy: str | None) -> Request:
        asked, drawn = self.planner.recipes[recipe], self.planner.settings
        told = self.chunks.row(chunk, named=True)
        values = {name: told[name] for name in asked.told}
        values |= _fixed(asked.use, asked.template)
        if strategy is not None:
            values["strategy"] = strategy
        seed = int(request_id(key)[:7], 16)
        schema = json.dumps(asked.template.schema) if asked.template.schema else None
        yes_no = asked.template.answer == "yes_no"
        sampling = Sampling(drawn.temperature, drawn.top_p, asked.max_tokens, seed, schema, yes_no)
        return Request(key, told["chunk_id"], asked, values, strategy, replicate, sampling)


def _xor(keys: list[pl.Series]) -> pl.Series:
    combined = keys[0]
    for series in keys[1:]:
        combined = combined ^ series
    return combined
