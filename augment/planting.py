"""Planting: true texts -> the same texts with one false fact each, to measure what finds it.

What is planted comes from the corpus: another number, another year or day, a name of another chunk, a unit, a
denial, two names that change places. Nothing here shares code with `grounding.py`, so that what is planted never
hangs on what looks for it.
"""

import random
import re
from collections.abc import Iterator

MONTHS = "January February March April May June July August September October November December".split()
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w])")
DATE = re.compile(
    rf"\b(?:(?:{'|'.join(MONTHS)}) )?(1[0-9]{{3}}|20[0-2][0-9])\b|\b\d{{1,2}} (?:{'|'.join(MONTHS)})\b"
)
UNIT = re.compile(r"(\d[\d,.]*) (metres|litres|grams|kilometres|hours|days|years|crowns|miles|percent)\b")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")  # capitalised inside a sentence
VERB = re.compile(r"\b(was|is|were|are|has|had|can|won|made)\b")


def names_in(texts: list[str]) -> list[str]:
    """Every name of the texts, once each, sorted."""
    return sorted({name for text in texts for name in NAME.findall(text)})


def falsified(text: str, foreign: list[str], draw: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, the text with one false fact) for each fact that can be turned.

    `foreign` are names that the text's source does not have. Kinds: `dates`, `numbers`, `names`, `units`,
    `negations`, `swapped`. A planted fact may by chance be the true one: compare the texts.
    """
    dates = [match.span() for match in DATE.finditer(text)]
    for match in DATE.finditer(text):
        old = re.search(r"\d+", match.group())
        assert old is not None
        new = draw.randrange(1000, 2026) if len(old.group()) == 4 else draw.randrange(1, 29)
        begin = match.start() + old.start()
        if new != int(old.group()):
            yield "dates", f"{text[:begin]}{new}{text[begin + len(old.group()) :]}"
    for match in NUMBER.finditer(text):
        if any(start <= match.start() < end for start, end in dates):
            continue
        value = float(match.group().replace(",", "").rstrip("."))
        new_value = int(value) + draw.randrange(1, 9) * max(1, 10 ** (len(str(int(value))) - 1))
        yield "numbers", text[: match.start()] + f"{new_value:,}" + text[match.end() :]
    here = NAME.findall(text)
    if here and foreign:
        old_name = draw.choice(here)
        yield "names", re.sub(rf"\b{re.escape(old_name)}\b", lambda _: draw.choice(foreign), text, count=1)
    if unit := UNIT.search(text):
        other = draw.choice([name for name in ("metres", "litres", "grams", "hours", "days") if name != unit[2]])
        yield "units", text[: unit.start(2)] + other + text[unit.end(2) :]
    if verb := VERB.search(text):
        yield "negations", text[: verb.end()] + " not" + text[verb.end() :]
    different = sorted(set(here), key=here.index)
    if len(different) > 1:
        first, last = different[0], different[-1]
        swap = {first: last, last: first}
        pattern = rf"\b(?:{re.escape(first)}|{re.escape(last)})\b"
        yield "swapped", re.sub(pattern, lambda match: swap[match.group()], text)
