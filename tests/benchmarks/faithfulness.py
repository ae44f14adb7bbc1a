"""Faithfulness: does the filter find planted false facts, and does it let true paraphrases pass?

    python tests/benchmarks/faithfulness.py [--quick] [--squad xquad.en.json]

Facts are planted into sentences of the demo's documents and, with `--squad`, of a file in SQuAD's format (XQuAD:
github.com/google-deepmind/xquad, xquad.en.json): another number, another year or day, a name of another document,
a denial, a unit, two names that change places. The sentence is judged against its own paragraph. True
rewrites, with their source or demo document, are in three files of 100: `data/paraphrases_held_out.jsonl`, written
apart from the filter, by the assignments of the shipped templates (`false_rejects`); `data/paraphrases_free.jsonl`,
with every freedom of a writer: other notations, roundings, sums; and `data/paraphrases.jsonl`. The filter's
rules were made with the last two in view (`false_rejects_free`, `false_rejects_tuned`).
`--generations FILE --chunks FILE --documents FILE` also says what share of a model's texts survives the filter.
CPU and GPU: the same command. The last line is one JSON object.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from active_reading.augment.filter import FilterSettings, filter_generations
from active_reading.augment.grounding import Source, ungrounded_word
from active_reading.augment.planting import falsified, names_in
from active_reading.prompts.render import load_template

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "flows" / "demo" / "documents"
HELD_OUT = "paraphrases_held_out.jsonl"
SETS = {HELD_OUT: "", "paraphrases_free.jsonl": "_free", "paraphrases.jsonl": "_tuned"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 200 planted facts of a kind and corpus")
    parser.add_argument("--squad", type=Path, help="a file in SQuAD's format, such as xquad.en.json")
    for name in ("generations", "chunks", "documents"):
        parser.add_argument(f"--{name}", type=Path, help="Parquet files of a run, for the share that survives")
    arguments = parser.parse_args()
    corpora = {"demo": demo_paragraphs()}
    if arguments.squad:
        corpora["squad"] = squad_paragraphs(arguments.squad)
    result: dict[str, object] = {}
    totals: dict[str, list[bool]] = {}
    for corpus, paragraphs in corpora.items():
        found: dict[str, list[bool]] = {}
        for kind, text, source, title in plant(paragraphs, 200 if arguments.quick else 10_000):
            found.setdefault(kind, []).append(ungrounded_word(text, Source(source, title)) is not None)
        for kind, hits in sorted(found.items()):
            print(f"{corpus}: {kind}: {sum(hits)} of {len(hits)} found ({sum(hits) / len(hits):.3f})")
            result[f"recall_{kind}_{corpus}"] = round(sum(hits) / len(hits), 4)
            totals.setdefault(kind, []).extend(hits)
    result |= {f"recall_{kind}": round(sum(hits) / len(hits), 4) for kind, hits in totals.items()}
    for name, key in SETS.items():
        rows = list(paraphrases(name))
        found_in = [(row, ungrounded_word(row["text"], source)) for row, source in rows]
        rejected = [(row, why) for row, why in found_in if why]
        for row, why in rejected:
            print(f"true, but rejected for '{why}': {row['text']}")
        result |= {f"paraphrases{key}": len(rows), f"false_rejects{key}": round(len(rejected) / len(rows), 4)}
        for corpus in sorted({row.get("corpus", "") for row, _ in rows} - {""}):
            fell = [row.get("corpus") == corpus for row, _ in rejected]
            among = sum(row.get("corpus") == corpus for row, _ in rows)
            result[f"false_rejects{key}_{corpus}"] = round(sum(fell) / among, 4)
    lost = float(str(result["false_rejects"]))
    for kind, hits in totals.items():  # of what falls, where one text of two is false
        share = sum(hits) / len(hits)
        result[f"precision_{kind}"] = round(share / (share + lost), 4) if share + lost else None
    if arguments.generations:
        result["survive"] = survivors(arguments)
    print(json.dumps(result))


def demo_paragraphs() -> list[tuple[str, str]]:
    """(title, paragraph) of the demo's documents."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(DEMO.rglob("*.*"))]
    return [(title_of(text), part) for text in texts for part in text.split("\n\n") if not part.startswith("#")]


def title_of(text: str) -> str:
    return text.splitlines()[0].lstrip("# ") if text.startswith("#") else ""


def squad_paragraphs(path: Path) -> list[tuple[str, str]]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [(article.get("title", ""), part["context"]) for article in articles for part in article["paragraphs"]]


def plant(paragraphs: list[tuple[str, str]], limit: int) -> Iterator[tuple[str, str, str, str]]:
    """(kind, false sentence, paragraph, title); each kind at most `limit` times."""
    draw = random.Random(0)
    everyone = names_in([text for _, text in paragraphs])
    made: dict[str, int] = {}
    draw.shuffle(paragraphs)
    for title, source in paragraphs:
        foreign = [name for name in everyone if name.casefold() not in f"{title} {source}".casefold()]
        for sentence in re.split(r"(?<=[.!?])\s+", source):
            for kind, text in falsified(sentence, foreign, random.Random(sentence)):
                if text != sentence and made.get(kind, 0) < limit:
                    made[kind] = made.get(kind, 0) + 1
                    yield kind, text, source, title


def paraphrases(name: str) -> Iterator[tuple[dict[str, str], Source]]:
    """Rows of a file by hand, each with its source."""
    with (HERE / "data" / name).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            text = row.get("source") or (DEMO / row["document"]).read_text(encoding="utf-8")
            yield row, Source(text, row.get("title", "").replace("_", " "))


def survivors(arguments: argparse.Namespace) -> dict[str, float]:
    """Share of the texts of each template that the filter keeps."""
    generations = pl.read_parquet(arguments.generations)
    titles = pl.read_parquet(arguments.documents).select("document_id", "title")
    chunks = pl.read_parquet(arguments.chunks).join(titles, on="document_id")
    answers = {name: load_template(name).answer for name in generations["template"].unique()}
    rows = filter_generations(generations, answers, chunks, FilterSettings())
    kept = rows.group_by("template").agg(pl.col("reason").is_null().mean().round(4)).sort("template")
    return dict(kept.iter_rows())


if __name__ == "__main__":
    main()
