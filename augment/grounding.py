"""Grounding: does a text name a number or a name that its source does not have?

Cheap and lexical. Numbers are compared as values ("4,000" = "4000", "eleven" = "11"); names are
capitalised words that are not plain words at the start of a sentence.
"""

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = {
    **{word: str(value) for value, word in enumerate(_UNITS)},
    **{word: str(10 * value) for value, word in enumerate(_TENS, start=2)},
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
}
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
    what when where whereas which while who whom whose why with within without would yes yet you your""".split()
)
_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


def numbers(text: str) -> set[str]:
    """Values named in the text, in digits or as single number words."""
    found = {match.replace(",", "") for match in _NUMBER.findall(text)}
    for word in _words(text):
        for part in word.casefold().split("-"):
            if part in NUMBER_WORDS:
                found.add(NUMBER_WORDS[part])
    return found


def names(text: str) -> list[str]:
    """Capitalised words, plain sentence openers left out, in order."""
    return [word for word in _words(text) if word[0].isupper() and word.casefold() not in OPENERS]


def ungrounded_word(text: str, source: str, title: str = "") -> str | None:
    """The first number or name of `text` that neither `source` nor `title` has, or None."""
    context = f"{title}\n{source}"
    # "one" and "two" are also plain English ("one of", "the two"): never evidence of invention.
    extra = numbers(text) - numbers(context) - {"1", "2"}
    if extra:
        return min(extra)
    known = {part for word in _words(context) for part in _stems(word)}
    for name in names(text):
        if not all(known & _stems(part) for part in name.split("-")):
            return name
    return None


def answer_is_grounded(answer: str, source: str) -> bool:
    """Every word of a short answer that carries meaning stands in the source."""
    if ungrounded_word(answer, source):
        return False
    known = {part for word in _words(source) for part in _stems(word)}
    words = [word for word in _words(answer) if word.casefold() not in OPENERS | set(NUMBER_WORDS)]
    return bool(words or numbers(answer)) and all(known & _stems(word) for word in words)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _stems(word: str) -> set[str]:
    """The word case-folded, without a possessive or plural ending."""
    folded = re.sub(r"'s$|'$", "", word.casefold())
    return {folded, folded.removesuffix("s"), *folded.split("-")}
