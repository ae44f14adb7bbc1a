"""Grounding: does a text name a number, unit, name or quotation that its source does not have, or deny it?

Cheap and lexical. Numbers are compared as values (`quantities.py`); names are capitalised words, except where a
sentence, a line or a cell begins with a word that an English dictionary has in lower case.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from active_reading.augment.quantities import NUMBER_WORDS, derived_numbers, known_numbers, measures, numbers, plain

MONTHS = "january february march april may june july august september october november december".split()
# Places and peoples whose names do not follow from each other.
PEOPLES = [
    set(row.split())
    for row in (
        "america american americans states us usa, britain british uk, france french, spain spanish, greece greek "
        "greeks, netherlands dutch holland, denmark danish danes, turkey turkish turks, poland polish poles, "
        "wales welsh, norway norwegian norwegians, finland finnish finns, portugal portuguese, rome roman romans, "
        "germany german germans, sweden swedish swedes, switzerland swiss, scotland scottish "
        "scots, ireland irish"
    ).split(",")
]
# Plain words that are no names wherever they stand, as in headings.
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
    dr mr mrs ms mt prof st men opened people published roughly situated visitors women written""".split()
)
# The end of what stands before a sentence, a line or a cell of a table.
_OPENS = re.compile(r"(?:^|[.!?:|\n])[\s\"'(*#|>_\u201c\u2013\u2014-]*\Z")
_QUOTE = re.compile(r"[\"\u201c\u201e]([^\"\u201c\u201d\n]{3,200})[\"\u201d]")
_DENIAL = re.compile(r"\b(?:not(?! only)|never|cannot|\w+n't)\b", re.IGNORECASE)
# What a rewrite may turn into a "not": "only two", "without", "failed to", "unknown", "but".
_RESTRICTION = re.compile(
    r"\b(?:no|not|none|nor|never|neither|nobody|nothing|cannot|\w+n't|only|without|before|until|but|except|fail\w*|lack\w*"
    r"|refus\w*|lost|avoid\w*|rather|instead|although|though|despite|un(?!der|it|ivers|ion|ique|cle)\w+|im\w+less|\w+less|free|rare\w*|hardly)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_LIST_MARKER = re.compile(
    rf"^\W*(?:\d{{1,2}}[.)]|(?!(?:{'|'.join(month[:3] for month in MONTHS)}))\w+ \d{{1,2}}[:)])\s",
    re.MULTILINE | re.IGNORECASE,
)
_HEADING = re.compile(r"^\s*#.*", re.MULTILINE)
_OF_A_PLACE = re.compile(r"(\w{4,}?)(?:ese|ian|ean|an|ish|ic|n|i)s?")


@dataclass(frozen=True)
class Source:
    """What a text is checked against: its span of a document, and the title and headings above it."""

    text: str
    title: str = ""

    @cached_property
    def context(self) -> str:
        return plain(f"{self.title}\n{self.text}")

    @cached_property
    def numbers(self) -> set[str]:
        return known_numbers(self.context)

    @cached_property
    def words(self) -> set[str]:
        """Every word in the forms in which a text may use it."""
        known = {form for word in _WORD.findall(self.context) for form in _forms(word)}
        known |= {month[:length] for month in MONTHS if month in known for length in (3, 4)}
        return known.union(*(peoples for peoples in PEOPLES if known & peoples))

    @cached_property
    def names(self) -> set[str]:
        """The capitalised words, folded."""
        return {word.casefold() for word in _WORD.findall(self.context) if _is_capitalised(word)}

    @cached_property
    def units(self) -> dict[str, set[str]]:
        """Value -> the units that it has here."""
        known: dict[str, set[str]] = {}
        for value, unit in measures(self.context):
            known.setdefault(value, set()).add(unit)
        return known

    @cached_property
    def initials(self) -> tuple[str, str]:
        """First letters of all words in a row, and of the capitalised ones alone."""
        words = _WORD.findall(self.context)
        capitalised = "".join(word[0] for word in words if _is_capitalised(word))
        return "".join(word[0] for word in words).casefold(), capitalised.casefold()

    @cached_property
    def acronyms(self) -> set[str]:
        return {word.casefold() for word in re.findall(r"\b[A-Z]{2,5}\b", self.context.replace(".", ""))}

    @cached_property
    def spoken(self) -> str:
        """The words alone, in a row: where quotations are looked for."""
        words = re.findall(r"\w+", self.context.casefold())
        return f" {' '.join(words)} "

    @cached_property
    def restricts(self) -> bool:
        return _RESTRICTION.search(plain(self.text)) is not None


def names(text: str) -> list[str]:
    """Capitalised words in order, without plain words that open a sentence, and without single letters."""
    text = plain(text)
    headings = [match.span() for match in _HEADING.finditer(text)]
    return [
        match.group()
        for match in _WORD.finditer(text)
        if _is_capitalised(match.group())
        and match.group().casefold() not in OPENERS
        and not (len(match.group()) == 1 and text[match.end() : match.end() + 1] in (":", "."))
        and not (
            (_OPENS.search(text, 0, match.start()) or any(a <= match.start() < b for a, b in headings))
            and is_plain(match.group())
        )
    ]


def ungrounded_word(text: str, source: Source) -> str | None:
    """The first number, unit, quotation, denial or name of `text` that `source` does not have, or None."""
    text = plain(text)
    claimed = _LIST_MARKER.sub("", text)
    # "one" and "two" are also plain English ("one of", "the two"): in words never evidence of invention.
    plain_words = {"1", "2"} - set(re.findall(r"(?<![\w.,])[12](?![\w.,])", claimed))
    extra = numbers(claimed) - source.numbers - plain_words
    if extra and (extra := extra - derived_numbers(claimed, source.numbers)):
        return min(extra)
    if wrong := _wrong_unit(text, source) or _invented_quote(text, source) or _invented_denial(text, source):
        return wrong
    spelled_out: set[str] | None = None
    for name in names(text):
        if all(_is_known(part, source) for part in name.split("-") if _is_capitalised(part)):
            continue
        spelled_out = _spelled_out(text, source) if spelled_out is None else spelled_out
        if name not in spelled_out:
            return name
    return None


def answer_is_grounded(answer: str, source: Source) -> bool:
    """Every word of a short answer that carries meaning stands in the source."""
    if ungrounded_word(answer, source) or numbers(answer) - numbers(source.context):
        return False
    words = [word for word in _WORD.findall(plain(answer)) if word.casefold() not in OPENERS | set(NUMBER_WORDS)]
    return bool(words or numbers(answer)) and all(source.words & _forms(word) for word in words)


def _is_capitalised(word: str) -> bool:
    return word[0].isupper()


@cache
def _dictionary() -> Any:
    from hunspell import Hunspell

    return Hunspell("en_US")


@cache
def is_plain(word: str) -> bool:
    """Whether English has the word in lower case, so that only its place in the sentence may have raised it."""
    folded = word.casefold().partition("'")[0]
    return folded.endswith(("ing", "ly")) or (folded.isascii() and bool(_dictionary().spell(folded)))


def _is_known(name: str, source: Source) -> bool:
    """Whether the source has the name, a people's name of a place that it has, or what the name is short for."""
    known = source.words
    if known & _forms(name):
        return True
    folded = name.casefold()
    if match := _OF_A_PLACE.fullmatch(folded):  # "Chinese", "Italian": the same word up to its ending
        return any(word.startswith(match[1]) and len(word) <= len(match[1]) + 3 for word in source.names)
    if any(f"{folded}{ending}" in known for ending in ("ism", "ist", "ists")) and len(folded) > 3:
        return True
    return name.isupper() and 2 <= len(name) <= 5 and folded in source.initials[len(name) == 2]


def _spelled_out(text: str, source: Source) -> set[str]:
    """Names of the text that in a row begin with the letters of an acronym of the source: US, "United States"."""
    return {
        word
        for row in re.findall(r"(?:[A-Z][a-z]+ (?:of |and |the )?){1,4}[A-Z][a-z]+", text)
        for words in (re.findall(r"[A-Z][a-z]+", row),)
        for first in range(len(words))
        for last in range(first + 2, len(words) + 1)
        if "".join(word[0] for word in words[first:last]).casefold() in source.acronyms
        for word in words[first:last]
    }


def _wrong_unit(text: str, source: Source) -> str | None:
    """A number that the source gives with other units only: "4.6 feet" where it has "4.6 metres"."""
    known = source.units
    found = ((value, unit) for value, unit in measures(text) if value != "1")  # "one year" is also "a year"
    return next((f"{value} {unit}" for value, unit in found if value in known and unit not in known[value]), None)


def _invented_quote(text: str, source: Source) -> str | None:
    """A quotation of several words that the source does not have in a row."""
    for match in _QUOTE.finditer(text):
        words = re.findall(r"\w+", match.group(1).casefold())
        if len(words) > 1 and f" {' '.join(words)} " not in source.spoken:
            return match.group()
    return None


def _invented_denial(text: str, source: Source) -> str | None:
    """A "not" or "never" in a text whose source denies and restricts nothing at all."""
    found = _DENIAL.search(text)
    return found.group() if found and not source.restricts else None


def _forms(word: str) -> set[str]:
    """The word case-folded, without a possessive, contraction or plural ending."""
    folded = word.casefold()
    folded = re.sub(r"'(?:s|ll|re|ve|d)$", "", folded)
    return {folded, folded.removesuffix("s"), folded.removesuffix("es"), *folded.split("-")}
