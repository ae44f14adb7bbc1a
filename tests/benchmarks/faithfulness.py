"""Faithfulness: does the filter find planted false facts, and does it let true paraphrases pass?

    python tests/benchmarks/faithfulness.py [--quick] [--squad xquad.en.json]

Facts are planted into sentences of the demo's documents and, with `--squad`, of a file in SQuAD's format (XQuAD:
github.com/google-deepmind/xquad, xquad.en.json): another number, another year or day, a name of another document,
a denial, a unit, two names that change places. The sentence is judged against its own paragraph. True
paraphrases, 100 written by hand, are in `data/paraphrases.jsonl` with their source or their demo document.
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
from active_reading.augment.grounding import ungrounded_word
from active_reading.prompts.render import load_template

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "flows" / "demo" / "documents"
MONTHS = "January February March April May June July August September October November December".split()
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w])")
DATE = re.compile(
    rf"\b(?:(?:{'|'.join(MONTHS)}) )?(1[0-9]{{3}}|20[0-2][0-9])\b|\b\d{{1,2}} (?:{'|'.join(MONTHS)})\b"
)
UNIT = re.compile(r"(\d[\d,.]*) (metres|litres|grams|kilometres|hours|days|years|crowns|miles|percent)\b")
# Capitalised inside a sentence; apart from the code under test, so that what is planted never hangs on it.
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
VERB = re.compile(r"\b(was|is|were|are|has|had|can|won|made)\b")


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
            found.setdefault(kind, []).append(ungrounded_word(text, source, title) is not None)
        for kind, hits in sorted(found.items()):
            print(f"{corpus}: {kind}: {sum(hits)} of {len(hits)} found ({sum(hits) / len(hits):.3f})")
            result[f"recall_{kind}_{corpus}"] = round(sum(hits) / len(hits), 4)
            totals.setdefault(kind, []).extend(hits)
    result |= {f"recall_{kind}": round(sum(hits) / len(hits), 4) for kind, hits in totals.items()}
    rejected = [(row, why) for row, source in paraphrases() if (why := ungrounded_word(row["text"], source, ""))]
    for row, why in rejected:
        print(f"true, but rejected for '{why}': {row['text']}")
    count = len(list(paraphrases()))
    result |= {"paraphrases": count, "false_rejects": round(len(rejected) / count, 4)}
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
    everyone = sorted({name for _, text in paragraphs for name in NAME.findall(text)})
    made: dict[str, int] = {}
    draw.shuffle(paragraphs)
    for title, source in paragraphs:
        foreign = [name for name in everyone if name.casefold() not in f"{title} {source}".casefold()]
        for sentence in re.split(r"(?<=[.!?])\s+", source):
            for kind, text in falsified(sentence, foreign, random.Random(sentence)):
                if text != sentence and made.get(kind, 0) < limit:
                    made[kind] = made.get(kind, 0) + 1
                    yield kind, text, source, title


def falsified(sentence: str, foreign: list[str], draw: random.Random) -> Iterator[tuple[str, str]]:
    dates = [match.span() for match in DATE.finditer(sentence)]
    for match in DATE.finditer(sentence):
        old = re.search(r"\d+", match.group())
        assert old is not None
        new = draw.randrange(1000, 2026) if len(old.group()) == 4 else draw.randrange(1, 29)
        begin = match.start() + old.start()
        if new != int(old.group()):
            yield "dates", f"{sentence[:begin]}{new}{sentence[begin + len(old.group()) :]}"
    for match in NUMBER.finditer(sentence):
        if any(start <= match.start() < end for start, end in dates):
            continue
        value = float(match.group().replace(",", "").rstrip("."))
        new_value = int(value) + draw.randrange(1, 9) * max(1, 10 ** (len(str(int(value))) - 1))
        yield "numbers", sentence[: match.start()] + f"{new_value:,}" + sentence[match.end() :]
    here = NAME.findall(sentence)
    if here:
        old_name = draw.choice(here)
        yield "names", re.sub(rf"\b{re.escape(old_name)}\b", lambda _: draw.choice(foreign), sentence, count=1)
    if match := UNIT.search(sentence):
        other = draw.choice([unit for unit in ("metres", "litres", "grams", "hours", "days") if unit != match[2]])
        yield "units", sentence[: match.start(2)] + other + sentence[match.end(2) :]
    if match := VERB.search(sentence):
        yield "negations", sentence[: match.end()] + " not" + sentence[match.end() :]
    different = sorted(set(here), key=here.index)
    if len(different) > 1:
        first, last = different[0], different[-1]
        swap = {first: last, last: first}
        pattern = rf"\b(?:{re.escape(first)}|{re.escape(last)})\b"
        yield "swapped", re.sub(pattern, lambda match: swap[match.group()], sentence)


def paraphrases() -> Iterator[tuple[dict[str, str], str]]:
    """Rows of the file by hand, each with its source text."""
    with (HERE / "data" / "paraphrases.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row, row.get("source") or (DEMO / row["document"]).read_text(encoding="utf-8")


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
