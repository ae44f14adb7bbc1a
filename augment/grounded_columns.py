"""Which texts are grounded for certain, for a whole column at once in polars: the fast path of `grounding.py`.

A text passes here when it is made of Latin letters and plain signs, quotes and denies nothing, and every number,
measure and capitalised word of it stands in its source in one of the forms that are listed. `ungrounded_word` would
find nothing in such a text either (`tests/augment/test_grounded_columns.py`), and has to look at the others alone.
"""

from collections.abc import Iterator, Mapping

import polars as pl

from active_reading.augment.grounding import OPENERS, Source, is_plain
from active_reading.augment.quantities import NUMBER_WORDS, UNITS

_WORDS = "|".join(word for word in NUMBER_WORDS if word not in ("one", "two"))  # those are plain English, too
_NUMBER = rf"(?:\d[\d,.]*|\b(?:{_WORDS})\b)"
_ONE_OR_TWO = r"\b(?:one|two)"
_ANY_NUMBER = rf"(?:{_NUMBER}|{_ONE_OR_TWO}\b)"
_UNIT = "|".join(unit for unit in UNITS if unit != "%")
_DOUBT = "|".join(
    [
        r"[^\x20-\x7e\n\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f\u2013\u2014]",  # signs other than Latin ones
        r"[\"_$]|(?i:\b(?:not|never|cannot|half)\b|n't\b)",  # a quotation, a currency, a denial
        rf"(?i:{_ANY_NUMBER}[ -]+(?:and )?{_ANY_NUMBER})",  # "80 000", "forty-one"
        rf"(?i:\d(?:{_WORDS})|(?:one|two|{_WORDS})\d)",  # "5million", "forty-one4"
        rf"(?i:{_ONE_OR_TWO}[ -]?(?:{_UNIT})\b)",
    ]
)
_MEASURE = rf"(?i:{_NUMBER}[ -]?(?:%|(?:{_UNIT})\b))"
_NAME = r"\u0001?\p{Lu}\p{L}*(?:['-]\p{L}+)*"  # the sign marks a word that opens a sentence
_OPENING = r"(^|[.!?:|\n])([\s'(*#|>\u2013\u2014-]*)(\p{Lu})"
_SPELLINGS = {unit: [word for word, group in UNITS.items() if group == unit] for unit in set(UNITS.values())}
_SPOKEN = {str(value): word for word, value in NUMBER_WORDS.items()}


def grounded(texts: pl.DataFrame, sources: Mapping[str, Source]) -> pl.Series:
    """Of each row of `texts` (`source`, a key of `sources`, and `text`), whether it is grounded for certain."""
    rows = texts.select("source", "text").with_row_index("row")
    plain = rows.filter(~pl.col("text").str.contains(_DOUBT))
    marked = pl.col("text").str.replace_all(_OPENING, "${1}${2}\u0001${3}")
    claims = (
        plain.select("row", "source", claim=marked.str.extract_all(rf"{_MEASURE}|(?i:{_NUMBER})|\d|{_NAME}"))
        .explode("claim")
        .drop_nulls("claim")
        .with_columns(pl.col("claim").str.to_lowercase().str.strip_chars_end(".,").str.replace(r"'s$", ""))
        .unique()
    )
    opening = pl.col("claim").str.starts_with("\u0001")
    words = claims.filter(opening)["claim"].unique().str.strip_prefix("\u0001")
    openers = [*OPENERS, *(word for word in words if is_plain(word))]
    claims = claims.filter(
        ~pl.col("claim").is_in(OPENERS) & ~(opening & pl.col("claim").str.tail(-1).is_in(openers))
    )
    known = pl.DataFrame(
        [(key, list(_forms(source))) for key, source in sources.items()],
        schema={"source": pl.String, "claim": pl.List(pl.String)},
        orient="row",
    ).explode("claim")
    foreign = claims.with_columns(pl.col("claim").str.strip_prefix("\u0001")).join(
        known, on=["source", "claim"], how="anti"
    )
    certain = plain.join(foreign, on="row", how="anti")["row"]
    return rows["row"].is_in(certain.implode()).rename("grounded")


def _forms(source: Source) -> Iterator[str]:
    """Words, numbers and measures of a source in every form in which a text may have them."""
    yield from source.words
    for value in source.numbers:
        yield from _written(value)
    for value, units in source.units.items():
        for number in _written(value):
            for unit in (word for group in units for word in _SPELLINGS[group]):
                yield from (f"{number}{between}{unit}" for between in (" ", "-", ""))


def _written(value: str) -> Iterator[str]:
    yield value
    if value.isdecimal():
        yield f"{int(value):,}"
    if value in _SPOKEN:
        yield _SPOKEN[value]
