"""Grounding: does a text name a number, unit, name or quotation that its source does not have, or deny it?

Cheap and lexical. Numbers are compared as values ("4,000" = "four thousand", "2.50" = "2.5"); names are
capitalised words that are not plain words at the start of a sentence.
"""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {
    **{word: Decimal(value) for value, word in enumerate(_UNITS)},
    **{word: Decimal(10 * value) for value, word in enumerate(_TENS, start=2)},
    "hundred": Decimal(100),
    "thousand": Decimal(1000),
    "million": Decimal(1_000_000),
}
ORDINALS = {
    word: value
    for value, word in enumerate(
        "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
        "sixteenth seventeenth eighteenth nineteenth twentieth".split(),
        start=3,
    )
}
_MULTIPLIERS = (100, 1000, 1_000_000)
# Words that open sentences in rewrites without being names, even when the source does not use them.
OPENERS = frozenset(
    """a about according after afterwards all also although among an and another answer any apart as at back
    based because before behind below besides between both but by called can certainly could despite did do does
    during each early eventually every everyone few finally first following for former from furthermore given
    good had has have he held her here hers his how however i if in including initially inside instead into
    is it its known last later like located made many meanwhile moreover most much near nearly never nevertheless
    next no none not note notably nothing now of often on once one only originally other others our out over
    overall part perhaps question read remember second several she similarly since so some soon sources still
    strategy student students study such text than that the their them then there therefore these they third this
    those though through throughout thus to today together two under unlike until upon use using was we well were
    what when where whereas which while who whom whose why with within without would yes yet you your
    adults almost approximately around born built children completed created discovered finished founded houses
    men opened people published roughly situated visitors women written""".split()
)
_UNIT_WORDS = """
% percent; metre metres meter meters m; kilometre kilometres kilometer kilometers km; centimetre centimetres
centimeter centimeters cm; millimetre millimetres millimeter millimeters mm; mile miles; foot feet ft; inch
inches; yard yards; litre litres liter liters; gallon gallons; gram grams g; kilogram kilograms kg; tonne
tonnes ton tons; ounce ounces; second seconds; minute minutes; hour hours; day days; week weeks; month
months; year years; decade decades; century centuries; dollar dollars; euro euros; pound pounds; crown
crowns; degree degrees
"""
UNITS = {word: group.split()[0] for group in _UNIT_WORDS.split(";") for word in group.split()}
_MEASURE = re.compile(
    rf"(?P<number>\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(NUMBER_WORDS)}))[ -]?(?P<unit>%|(?:{'|'.join(UNITS)})\b)"
)
_OPENS = re.compile(r"(?:^|[.!?:\n])[\s\"'(*-]*\Z")  # the end of what stands before a sentence
_QUOTE = re.compile(r"[\"\u201c\u201e]([^\"\u201c\u201d\n]{3,200})[\"\u201d]")
_DENIAL = re.compile(r"\b(?:not(?! only)|never|cannot|\w+n't)\b", re.IGNORECASE)
# What a rewrite may turn into a "not": "only two", "without", "failed to", "unknown", "but".
_RESTRICTION = re.compile(
    r"\b(?:no|not|none|nor|never|neither|nobody|nothing|cannot|\w+n't|only|without|before|until|but|except|fail\w*|lack\w*"
    r"|refus\w*|lost|avoid\w*|rather|instead|although|though|despite|un\w+|im\w+less|\w+less|free|rare\w*|hardly)\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LIST_MARKER = re.compile(r"^\W*(?:\d{1,2}[.)]|\w+ \d{1,2}[:)])\s", re.MULTILINE)
# Typographic apostrophes and hyphens read as the plain ones.
_PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2010": "-", "\u2011": "-"})


def numbers(text: str) -> set[str]:
    """Values named in the text: "4,000", "2.50", "two hundred and five" or "1.2 million"."""
    values = (value for run in _number_runs(_plain(text)) for value in _compose(run))
    return {format(value.normalize(), "f") for value in values}


def names(text: str) -> list[str]:
    """Capitalised words, plain sentence openers left out, in order."""
    plain = _plain(text)
    return [
        match.group()
        for match in _WORD.finditer(plain)
        if match.group()[0].isupper()
        and match.group().casefold() not in OPENERS
        and not (match.group().endswith(("ing", "ly")) and _OPENS.search(plain, 0, match.start()))
    ]


def ungrounded_word(text: str, source: str, title: str = "") -> str | None:
    """The first number or name of `text` that neither `source` nor `title` has, or None."""
    context = f"{title}\n{source}"
    claimed = _LIST_MARKER.sub("", text)
    # "one" and "two" are also plain English ("one of", "the two"): in words never evidence of invention.
    plain_words = {"1", "2"} - set(re.findall(r"(?<![\w.,])[12](?![\w.,])", claimed))
    extra = numbers(claimed) - numbers(context) - _ordinals(context) - plain_words
    if extra:
        return min(extra)
    if wrong := _wrong_unit(text, context) or _invented_quote(text, context) or _invented_denial(text, context):
        return wrong
    known = {part for word in _words(context) for part in _stems(word)}
    for name in names(text):
        parts = [part for part in name.split("-") if part[0].isupper()]
        if not all(known & _stems(part) or _is_of_a_known_place(part, known) for part in parts):
            return name
    return None


def _ordinals(text: str) -> set[str]:
    """Values of the ordinals in words, so that "the 17th century" may stand for "the seventeenth century"."""
    return {str(ORDINALS[word]) for word in re.findall(r"\w+", text.casefold()) if word in ORDINALS}


def _is_of_a_known_place(name: str, known: set[str]) -> bool:
    """Whether "Chinese" or "Italian" comes of a place that the source names: the same word up to its ending."""
    match = re.fullmatch(r"(\w{4,}?)(?:ese|ian|ean|an|ish|ic)s?", name.casefold())
    return match is not None and any(word.startswith(match[1]) and len(word) <= len(match[1]) + 3 for word in known)


def _wrong_unit(text: str, source: str) -> str | None:
    """A number that the source gives with other units only: "4.6 feet" where it has "4.6 metres"."""
    known: dict[str, set[str]] = {}
    for value, unit in _measures(source):
        known.setdefault(value, set()).add(unit)
    return next((f"{v} {unit}" for v, unit in _measures(text) if v in known and unit not in known[v]), None)


def _measures(text: str) -> Iterator[tuple[str, str]]:
    for match in _MEASURE.finditer(_plain(text).casefold()):
        for value in numbers(match["number"]):
            yield value, UNITS[match["unit"]]


def _invented_quote(text: str, source: str) -> str | None:
    """A quotation of several words that the source does not have in a row."""
    known = " ".join(re.findall(r"\w+", _plain(source).casefold()))
    for match in _QUOTE.finditer(_plain(text)):
        words = re.findall(r"\w+", match.group(1).casefold())
        if len(words) > 1 and f" {' '.join(words)} " not in f" {known} ":
            return match.group()
    return None


def _invented_denial(text: str, source: str) -> str | None:
    """A "not" or "never" in a text whose source denies and restricts nothing at all."""
    found = _DENIAL.search(_plain(text))
    return found.group() if found and not _RESTRICTION.search(_plain(source)) else None


def answer_is_grounded(answer: str, source: str) -> bool:
    """Every word of a short answer that carries meaning stands in the source."""
    if ungrounded_word(answer, source) or numbers(answer) - numbers(source):
        return False
    known = {part for word in _words(source) for part in _stems(word)}
    words = [word for word in _words(answer) if word.casefold() not in OPENERS | set(NUMBER_WORDS)]
    return bool(words or numbers(answer)) and all(known & _stems(word) for word in words)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).translate(_PLAIN)


def _words(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


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
        if value in (1000, 1_000_000):
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


def _stems(word: str) -> set[str]:
    """The word case-folded, without a possessive or plural ending."""
    folded = word.casefold().removesuffix("'s")
    return {folded, folded.removesuffix("s"), folded.removesuffix("es"), *folded.split("-")}
