"""The card of a data set: a README whose YAML the Hugging Face hub reads, and a body for people.

Licences are those that the settings state: none is assumed, and where one is missing the header has none.
Words that come from elsewhere (titles, paths, templates) are quoted, so that neither YAML nor Markdown reads them
as anything else.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import polars as pl
import yaml

from active_reading.augment.decontaminate import NGRAM_WORDS
from active_reading.augment.export import CONFIGS, ExportSettings
from active_reading.augment.figures import COPIED_WORDS, DISTINCT_WORDS

SOURCES_SHOWN = 20
LEAST_SHOWN = 10  # documents of the smallest coverage
RECIPE = "study.yaml"
EARLIER = (
    " Texts that repeat those of earlier runs were left out (`dedupe.earlier`): what was remembered of these runs "
    "is not part of the data set, and without it such texts come back."
)
SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
LOAD = """\
```python
from datasets import load_dataset

load_dataset("PLACE", split="train")                       # text: continue pretraining
load_dataset("PLACE", "messages", split="train")           # chat, as TRL's SFTTrainer takes it
load_dataset("PLACE", "prompt_completion", split="train")  # prompt and completion
load_dataset("PLACE", "chunks", split="train")             # the documents alone
```

`PLACE` is this folder, or the name of its repository. The folders below `data` hold plain Parquet:
`polars.scan_parquet("PLACE/data/text/*.parquet")`, `duckdb.sql("FROM 'PLACE/data/text/*.parquet'")`."""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells."""

    title: str
    made_with: str  # name and version of the program
    generator: dict[str, Any]  # model, revision and sampling
    uses: list[dict[str, Any]]  # how each template was asked
    templates: dict[str, str]  # source by name
    sources: pl.DataFrame  # as `list_sources` returns it
    counts: list[dict[str, Any]]  # `template`, `rows` and `tokens` of the data set
    funnel: list[dict[str, Any]]
    faithfulness: dict[str, dict[str, float | int]]
    diversity: list[dict[str, Any]]
    coverage: list[dict[str, Any]]  # per document, as `coverage.by_document` counts, with its `source`
    decontamination: dict[str, dict[str, int]] | None  # per evaluation set; None when it was off
    judge: dict[str, dict[str, Any]]  # figures of `judge.judge_texts`; empty without a judge
    earlier: bool = False  # whether texts that repeat an earlier run's fell


def stated_licences(sources: list[str], settings: ExportSettings) -> list[str | None]:
    """The licence of each document by its path, None where none is stated.

    Raises ValueError for a pattern of `settings.licenses` that fits no document.
    """
    for pattern in settings.licenses:
        if not any(fnmatchcase(source, pattern) for source in sources):
            raise ValueError(f"export.licenses: '{pattern}' fits no document: give a path below the corpus folder")
    return [
        next(
            (name for pattern, name in settings.licenses.items() if fnmatchcase(source, pattern)), settings.license
        )
        for source in sources
    ]


def list_sources(documents: pl.DataFrame, rows: pl.LazyFrame, settings: ExportSettings) -> pl.DataFrame:
    """One row per document: `document_id`, `source`, `title`, `num_chars`, `license` (null where none is
    stated), `rows` and `tokens` in the data set."""
    licences = stated_licences(documents["source"].to_list(), settings)
    totals = rows.group_by("document_id").agg(
        pl.len().alias("rows"), pl.col("num_tokens").cast(pl.Int64).sum().alias("tokens")
    )
    listed = documents.select("document_id", "source", "title", "num_chars")
    listed = listed.with_columns(pl.Series("license", licences, dtype=pl.String))
    joined = listed.join(totals.collect(), on="document_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("rows", "tokens").fill_null(0).cast(pl.Int64))


def make_card(facts: CardFacts, settings: ExportSettings) -> str:
    """The whole card, YAML and body."""
    total = sum(line["rows"] for line in facts.counts)
    num_sources = sum(line["rows"] for line in facts.counts if line["template"] == "chunk")
    tokens = sum(line["tokens"] for line in facts.counts)
    body = [
        f"# {facts.title}",
        f"{num_sources} chunks of {facts.sources.filter(pl.col('rows') > 0).height} documents, and "
        f"{total - num_sources} texts that a language model wrote about them ({tokens:,} tokens in all). "
        f"Licence: {_licence_line(facts.sources)}.",
        "## Load",
        LOAD,
        "## Sources and licences",
        *_sources(facts.sources),
        "## Counts",
        *_counts(facts),
        "## Faithfulness and diversity",
        *_figures(facts),
        *_judge(facts.judge),
        "## Coverage",
        *_coverage(facts.coverage),
        "## Decontamination",
        *_decontamination(facts.decontamination),
        "## Generator",
        "\n".join(f"- {name}: {value}" for name, value in facts.generator.items()),
        table(("template", "replicates", "attempts", "max_tokens", "num_items", "applies"), facts.uses),
        "## Templates",
        *(f"### {name}\n\n{_fenced(source)}" for name, source in facts.templates.items()),
        "## Make it again",
        f"Put the documents in the folder `documents` beside `{RECIPE}` and `templates/`, both of this data set "
        "(and the questions and tasks that it was decontaminated for, if any, where that file names them), then "
        f"run `active-reading export {RECIPE}` of {facts.made_with}. Answers are drawn with fixed seeds; another "
        "GPU or another release of vLLM may still word some of them differently."
        + (EARLIER if facts.earlier else ""),
    ]
    return f"---\n{_header(facts, settings, total)}---\n\n" + "\n\n".join(body) + "\n"


class _Quoted(str):
    """Text that YAML 1.1 (PyYAML) and 1.2 (the hub) must read as this text: `no`, `1e3`, `0o17`, a colon."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, '"'))


def _header(facts: CardFacts, settings: ExportSettings, num_rows: int) -> str:
    header: dict[str, Any] = {
        "pretty_name": _Quoted(facts.title),
        "language": _Quoted(settings.language),
        "task_categories": ["text-generation"],
        "task_ids": ["language-modeling"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [next((name for name, limit in SIZES if num_rows < limit), "n>10M")],
        "tags": ["synthetic", "active-reading"],
        "configs": [
            {"config_name": config, "data_files": f"data/{config}/*.parquet"}
            | ({"default": True} if config == "text" else {})
            for config in CONFIGS
        ],
    }
    stated = facts.sources["license"]
    if len(stated) and not stated.null_count():
        names = [_Quoted(name.lower()) for name in stated.unique(maintain_order=True)]  # as the hub spells them
        header["license"] = names[0] if len(names) == 1 else names
    return yaml.dump(header, Dumper=_Dumper, sort_keys=False, width=10**6)


def _licence_line(sources: pl.DataFrame) -> str:
    stated = sources["license"].drop_nulls().unique(maintain_order=True).to_list()
    if not stated:
        return "not stated; it follows the documents"
    return ", ".join(stated) + ("; of some documents not stated" if sources["license"].null_count() else "")


def _sources(sources: pl.DataFrame) -> list[str]:
    by_licence = sources.group_by("license", maintain_order=True).agg(
        pl.len().alias("documents"), pl.col("rows", "tokens").sum()
    )
    lines = [{**line, "license": line["license"] or "not stated"} for line in by_licence.iter_rows(named=True)]
    shown = [
        {**line, "source": _code(line["source"]), "title": _plain(line["title"])}
        for line in sources.head(SOURCES_SHOWN).with_columns(pl.col("license").fill_null("not stated")).to_dicts()
    ]
    left = sources.height - len(shown)
    return [
        table(("license", "documents", "rows", "tokens"), lines),
        table(("source", "title", "license", "num_chars", "rows", "tokens"), shown),
        (f"And {left:,} more: " if left else "The same list: ") + "`sources.parquet`.",
    ]


def _counts(facts: CardFacts) -> list[str]:
    reasons = [
        f"- `{line['template']}`: " + ", ".join(f"{reason} {n}" for reason, n in sorted(line["dropped"].items()))
        for line in facts.funnel
        if line["dropped"]
    ]
    made = ("template", "planned", "accepted", "rejected", "failed", "texts", "kept", "distinct", "tokens")
    accepted = [{**line, "acceptance": f"{_share(line['accepted'], line['planned'])}"} for line in facts.funnel]
    return [
        "In the data set:",
        table(("template", "rows", "tokens"), facts.counts),
        "What became of the requests to the model and of the texts in its answers (`tokens` are those it wrote):",
        table((*made, "acceptance"), accepted),
        "Dropped, by reason:\n\n" + "\n".join(reasons) if reasons else "Nothing was dropped.",
    ]


def _figures(facts: CardFacts) -> list[str]:
    different = {line["template"]: line for line in facts.diversity}
    lines = []
    for template in [*facts.faithfulness, *(name for name in different if name not in facts.faithfulness)]:
        checked, line = facts.faithfulness.get(template), different.get(template, {})
        error = line.get("copied_error")
        copied = "" if line.get("copied") is None else f"{line['copied']:.3f}"
        lines.append(
            {
                "template": template,
                "checked": checked["checked"] if checked else "",
                "grounded": f"{checked['grounded']:.3f}" if checked else "",
                "sample": line.get("sample", ""),
                "distinct": "" if line.get("distinct") is None else f"{line['distinct']:.3f}",
                "copied": copied + (f" +- {error:.3f}" if error is not None else ""),
            }
        )
    return [
        table(("template", "checked", "grounded", "sample", "distinct", "copied"), lines),
        "grounded: share of the checked texts that name no number and no name which their chunk lacks; a text may "
        f"still be wrong in its chunk's own words. distinct: different runs of {DISTINCT_WORDS} words over all of "
        "them, in the sample of the rows together. copied: mean share of a row's runs of "
        f"{COPIED_WORDS} words that its chunk has, +- one standard error over rows.",
    ]


def _judge(figures: dict[str, dict[str, Any]]) -> list[str]:
    """What a model that read the chunk said, and how far to trust it."""
    said = []
    if of := figures.get("statements"):
        said.append(
            f"A model read each running text beside its chunk; {of['fallen']} of {of['texts']} texts fell as not "
            "supported (`judged_false`)."
        )
        if "recall" in of:
            by_kind = ", ".join(f"{kind} {share:.2f}" for kind, share in of["recall_by_kind"].items())
            precision = "-" if of["precision"] is None else f"{of['precision']:.2f}"
            said.append(
                f"Of {of['planted']} false facts planted into such texts it finds {of['recall']:.2f} ({by_kind}), "
                f"where {of['false_rejects']:.2f} of the untouched texts fall: precision {precision} if one text "
                f"of two is false, area under the ROC curve {of['auc']:.2f}."
            )
    if of := figures.get("answers"):
        said.append(
            "Asked each question beside its chunk, the model gave another answer than the text's to "
            f"{of['fallen']} of {of['texts']} questions, which fell (`other_answer`)."
        )
    return [" ".join(said)] if said else []


def _coverage(documents: list[dict[str, Any]]) -> list[str]:
    """All documents together, and those of whose sentences the smallest share is mentioned."""
    counted = ("sentences", "sentences_mentioned", "numbers", "numbers_mentioned")
    total = {name: sum(line[name] for line in documents) for name in counted}
    share = {line["source"]: line["sentences_mentioned"] / max(line["sentences"], 1) for line in documents}
    least = sorted((line for line in documents if line["sentences"]), key=lambda line: share[line["source"]])
    lines = [{**line, "source": _code(line["source"])} for line in least[:LEAST_SHOWN]]
    return [
        f"The generated texts mention {_share(total['sentences_mentioned'], total['sentences'])} of the documents' "
        f"{total['sentences']:,} sentences and {_share(total['numbers_mentioned'], total['numbers'])} of their "
        f"{total['numbers']:,} numbers. A sentence counts as mentioned when one text of its chunk has half of its "
        "content words. What none mentions is in `coverage.parquet`; the documents with the smallest share:",
        table(("source", *counted), lines),
    ]


def _decontamination(counts: dict[str, dict[str, int]] | None) -> list[str]:
    if counts is None:
        return ["Off: texts may hold questions and texts of the evaluation, word for word."]
    lines = [{"evaluation set": _plain(name), **of} for name, of in counts.items()]
    headings = ("evaluation set", "its texts", "generated texts removed", "chunks removed", "titles hidden")
    return [
        f"Removed is every text with {NGRAM_WORDS} words in a row of an evaluation text, or all of a shorter one. "
        "Chunks of the documents may quote a gold question in part, and fall only where they hold all of it; so do "
        "titles, which stand in prompts: an id is there instead. Tasks whose items come from the hub are not "
        "checked.",
        table(("evaluation set", "texts", "removed", "removed_chunks", "hidden_titles"), lines, headings),
    ]


def table(columns: tuple[str, ...], lines: list[dict[str, Any]], headings: tuple[str, ...] = ()) -> str:
    """A table in Markdown, of these columns of the lines."""
    rows = [
        f"| {' | '.join('' if line[name] is None else str(line[name]) for name in columns)} |" for line in lines
    ]
    return "\n".join([f"| {' | '.join(headings or columns)} |", f"|{' --- |' * len(columns)}", *rows])


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else ""


def _plain(text: str) -> str:
    """One line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """One line of code in a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _fenced(source: str) -> str:
    longest = max((len(run) for run in re.findall("`+", source)), default=0)
    fence = "`" * max(4, longest + 1)
    return f"{fence}jinja\n{source.strip()}\n{fence}"
