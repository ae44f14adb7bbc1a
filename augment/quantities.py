"""Quantities in text, as values: "4,000" = "4 000" = "four thousand"; "half a million"; "the 1850s"; "4.6 metres".

English number words. NOT covered: fractions such as "two thirds", Roman numerals, sums and products.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {
    **{word: Decimal(value) for value, word in enumerate(_ONES)},
    **{word: Decimal(10 * value) for value, word in enumerate(_TENS, start=2)},
    "hundred": Decimal(100),
    "thousand": Decimal(1000),
    "million": Decimal(1_000_000),
    "billion": Decimal(1_000_000_000),
}
_ORDINALS = {
    word: value
    for value, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
        "sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        start=3,
    )
}
_COLLECTIVE = {"dozen": 12, "decade": 10, "decades": 10, "century": 100, "fortnight": 14}
_MULTIPLIERS = (100, 1000, 1_000_000, 1_000_000_000)
_UNIT_WORDS = """
% percent; metre metres meter meters m; kilometre kilometres kilometer kilometers km; centimetre centimetres
centimeter centimeters cm; millimetre millimetres millimeter millimeters mm; mile miles; foot feet ft; inch
inches; yard yards; litre litres liter liters; gallon gallons; gram grams g; kilogram kilograms kg; tonne
tonnes ton tons; ounce ounces; second seconds; minute minutes; hour hours; day days; week weeks; month
months; year years; decade decades; century centuries; dollar dollars; euro euros; pound pounds; crown
crowns; degree degrees; acre acres; hectare hectares ha; megabyte megabytes mb; gigabyte gigabytes gb
"""
UNITS = {word: group.split()[0] for group in _UNIT_WORDS.split(";") for word in group.split()}
_MEASURE = re.compile(
    rf"(?P<number>\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(NUMBER_WORDS)}))[ -]?(?P<unit>%|(?:{'|'.join(UNITS)})\b)"
)
_MONEY = re.compile(r"(?P<sign>[$\u20ac\u00a3])\s?(?P<number>\d[\d,]*(?:\.\d+)?)(?P<times> (?:million|billion))?")
_SIGNS = {"$": "dollar", "\u20ac": "euro", "\u00a3": "pound"}
_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")
_GROUPS = re.compile(r"\b(\d{1,3})((?: \d{3})+)\b(?!,)")  # "80 000"
_HALF = re.compile(rf"\b(\d+|{'|'.join(_ONES)}) and a half\b", re.IGNORECASE)
_HALF_A_MILLION = re.compile(r"\bhalf a (million|billion|thousand)\b", re.IGNORECASE)
_YEAR_RANGE = re.compile(r"\b(\d\d)\d\d[-/\u2013](\d\d)\b")
# What may be said of the numbers of a source without being one of them.
_DECADE = re.compile(r"\b(\d{2,3}0)s\b")
_SHORT_YEAR = re.compile(r"(?<!\w)'(\d\d)(s?)\b")
_YEARS = re.compile(
    r"\b([\w-]+(?: and [\w-]+|[ -][\w-]+)?)[ -]years?\b|\b(?:aged|age of|age) ([\w-]+)", re.IGNORECASE
)
_SAID = rf"(?:\d[\d,.]*|{'|'.join(NUMBER_WORDS)})"
_ROUNDED = re.compile(
    r"\b(?:about|almost|nearly|around|approximately|roughly|some|over|under|(?:more|fewer|less) than|close to|up to"
    rf"|at least)\s+((?:a )?{_SAID}(?:[ -](?:and )?{_SAID})*)",
    re.IGNORECASE,
)
# Typographic apostrophes, hyphens and spaces read as the plain ones.
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u2010": "-", "\u2011": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)


def plain(text: str) -> str:
    """The text in NFC, with plain apostrophes, hyphens and spaces."""
    return unicodedata.normalize("NFC", text).translate(_PLAIN)


def numbers(text: str) -> set[str]:
    """Values named in the text: "4,000", "2.50", "two hundred and five", "1.2 million" or "3 and a half"."""
    text = _GROUPS.sub(lambda match: match.group().replace(" ", ""), plain(text))
    text = _HALF.sub(lambda match: f"{NUMBER_WORDS.get(match[1].casefold(), match[1])}.5", text)
    text = _HALF_A_MILLION.sub(r"0.5 \1", text)
    values = (value for run in _number_runs(text) for value in _compose(run))
    return {format(value.normalize(), "f") for value in values}


def measures(text: str) -> Iterator[tuple[str, str]]:
    """(value, unit) of every number with a unit behind it; a unit in all its spellings is one."""
    text = plain(text).casefold()
    for match in _MEASURE.finditer(text):
        for value in numbers(match["number"]):
            yield value, UNITS[match["unit"]]
    for match in _MONEY.finditer(text):
        for value in numbers(match["number"] + (match["times"] or "")):
            yield value, _SIGNS[match["sign"]]


def known_numbers(source: str) -> set[str]:
    """Values that a text on `source` may name: its numbers, ordinals, dozens and ends of "1576-77"."""
    words = set(re.findall(r"\w+", source.casefold()))
    other = {word: value for word, value in {**_ORDINALS, **_COLLECTIVE}.items() if word in words}
    ends = {f"{match[1]}{match[2]}" for match in _YEAR_RANGE.finditer(plain(source))}
    return numbers(source) | ends | {str(value) for value in other.values()}


def derived_numbers(text: str, known: set[str]) -> set[str]:
    """Values of `text` that follow from the `known` ones by the way they are said.

    "the 1850s" and "the 1800s" from 1851 (and from "nineteenth"), "'72" from 1972, "eleven years later" from
    two years that lie eleven years apart, "over 5 million" or "almost a hundred" from 5,123,456 and 96.
    """
    text = plain(text)
    values = [Decimal(value) for value in known]
    years = [int(value) for value in values if value == value.to_integral() and 1000 <= value <= 2100]
    derived = set()
    for match in _DECADE.finditer(text):
        decade = int(match[1])
        within = 100 if decade % 100 == 0 else 10
        if any(decade <= year < decade + within for year in years) or str(decade // 100 + 1) in known:
            derived.add(match[1])
    for match in _SHORT_YEAR.finditer(text):
        if any(str(year)[2:3] == match[1][:1] if match[2] else year % 100 == int(match[1]) for year in years):
            derived |= numbers(match[1])
    apart = {str(abs(a - b)) for a in years for b in years if a != b}
    for match in _YEARS.finditer(text):
        derived |= numbers(match[1] or match[2]) & apart
    sizes = [value for value in values if value not in years]
    for match in _ROUNDED.finditer(text):
        derived |= {said for said in numbers(match[1]) if any(_rounds(Decimal(said), value) for value in sizes)}
    return derived


def _rounds(said: Decimal, value: Decimal) -> bool:
    """Whether `said` is `value` with fewer digits: one or two, within a twentieth, or three, within a hundredth."""
    digits = len(format(said.normalize(), "f").replace(".", "").strip("0"))
    return digits <= 3 and abs(said - value) <= value / (20 if digits < 3 else 100)


def _number_runs(text: str) -> Iterator[list[Decimal]]:
    """Number words that follow each other; digits begin a run, and only "million" and the like join them."""
    run: list[Decimal] = []
    end, digits = 0, False
    for match in _TOKEN.finditer(text):
        token = match.group().casefold()
        is_digits = token[0].isdecimal()
        value = Decimal(token.replace(",", "")) if is_digits else NUMBER_WORDS.get(token)
        adjacent = bool(run) and text[end : match.start()].strip(" \t\n") in ("", "-")
        if adjacent and token == "and" and run[-1] in _MULTIPLIERS:
            end = match.end()
            continue
        if run and not (adjacent and value is not None and (value in _MULTIPLIERS or not (digits or is_digits))):
            yield run
            run = []
        if value is not None:
            run.append(value)
            end, digits = match.end(), is_digits
    if run:
        yield run


def _compose(run: list[Decimal]) -> Iterator[Decimal]:
    """The values that a run of number words names: "two hundred five" is one, "nineteen twelve" is two."""
    total, group = Decimal(0), None
    for value in run:
        if value in _MULTIPLIERS[1:]:
            total, group = total + (group or 1) * value, None
        elif group is None:
            group = value
        elif value == 100:
            group *= 100
        elif _continues(group, value):
            group += value
        else:
            yield total + group
            total, group = Decimal(0), value
    yield total + (group or 0)


def _continues(group: Decimal, value: Decimal) -> bool:
    """Whether "two hundred" or "forty" goes on with `value`."""
    after_hundred = group > 0 and group % 100 == 0 and 0 < value < 100
    after_tens = group % 100 >= 20 and group % 10 == 0 and 0 < value < 10
    return after_hundred or after_tens
