"""Shingles: texts -> hashes of their words in a row.

The words are those of `decontaminate.normalized` (Unicode NFKC, one case, no punctuation, symbols or white
space; scripts without spaces count each character as a word), with Cyrillic letters that look like Latin ones
folded onto them (LOOK_ALIKES): what is read as the same word is the same word. Greek letters stay, since in
formulas they are symbols of their own.
A word of up to 8 bytes is hashed without collisions among such words; all hashes are the same on every machine,
whatever the version of any library.
NOT covered: texts that differ in punctuation and symbols alone (5 + 3 and 5 - 3) have the same words.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from active_reading.augment.decontaminate import normalized

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# Unicode TR39, confusables.txt: Cyrillic letters whose small or capital form looks like a Latin one.
LOOK_ALIKES = dict(
    zip(
        "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458\u04bb\u0501\u051b\u051d",
        "abekmhopctyxsijhdqw",
        strict=True,
    )
)
LONG_WORD = 64  # bytes: longer words are hashed one by one
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 / golden ratio, Knuth's multiplicative hashing
# The finalizer of MurmurHash3 (Appleby): a bijection after which every input bit moves every output bit.
MIX = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
SHIFT = np.uint64(33)
DROPPED = np.uint64(34)  # bits: the 30 that are kept are indices of a sparse matrix
SPACE = ord(" ")
ASCII_WORDS = bytes(
    code if code >= 128 or chr(code).isalnum() else SPACE
    for code in (ord(chr(code).lower()) if code < 128 else code for code in range(256))
)


@dataclass(frozen=True)
class Shingles:
    """The shingles of N texts, one after the other.

    values: (S,) 30-bit hashes, repeated where a text repeats itself. Two of a text of n shingles coincide with
    probability n^2 / 2^31, 5e-6 at 100. offsets: (N + 1,); text i has values[offsets[i]:offsets[i + 1]].
    exact: (N,) hash of all words in order; two of 10 million texts coincide with probability 3e-6.
    """

    values: U32
    offsets: I64
    exact: U64


def shingle(texts: pl.Series, length: int) -> Shingles:
    """Hashes of `length` words in a row; a text with fewer words, or none, has one shingle: all of it."""
    words, offsets = hash_words(texts)
    size = np.diff(offsets)  # (N,)
    exact = _hash_in_order(words, offsets)
    windows = words.copy()
    for step in range(1, length):
        windows[:-step] = windows[:-step] * MULTIPLIER + words[step:]
    windows = _mix(windows)
    count = np.maximum(size - length + 1, 1)
    starts = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(starts[-1]) + np.repeat(offsets[:-1] - starts[:-1], count)  # of each shingle's first word
    values = windows[np.minimum(place, len(words) - 1)] if len(words) else np.zeros(starts[-1], np.uint64)
    short = size < length
    values[starts[:-1][short]] = exact[short]
    return Shingles((values >> DROPPED).astype(np.uint32), starts, exact)


def hash_words(texts: pl.Series) -> tuple[U64, I64]:
    """Hashes of all words (W,), and where those of each text begin (N + 1,)."""
    joined = texts.str.join(" ").item() if len(texts) else ""
    # A space before, and eight after: every word has a neighbour, and eight bytes can be read at its start.
    data = b" " + joined.encode().translate(ASCII_WORDS) + b" " * 8
    hashes, starts, foreign = _hash_tokens(data)
    began = np.concatenate([[0], np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64) + 1)]) + 1
    offsets = np.searchsorted(starts, began[: len(texts) + 1])
    if not len(foreign):
        return hashes, offsets
    # Words with letters beyond ASCII: normalized once each; one may become several words, or none.
    tokens = _tokens_at(data, starts, foreign)
    inner, inner_offsets = _hash_foreign(list(dict.fromkeys(tokens)))
    number = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    which = np.array([number[token] for token in tokens])
    counts = np.ones(len(hashes), np.int64)
    counts[foreign] = np.diff(inner_offsets)[which]
    ends = np.concatenate([[0], np.cumsum(counts)])
    result = np.repeat(hashes, counts)
    many = counts[foreign]
    target = np.repeat(ends[foreign], many) + _ranges(many)
    result[target] = inner[np.repeat(inner_offsets[:-1][which], many) + _ranges(many)]
    return result, ends[offsets]


def hash_names(names: pl.Series) -> U64:
    """A hash of each name, character for character."""
    known = {name: _hash_bytes(name.encode()) for name in names.unique()}
    return np.array([known[name] for name in names], np.uint64)


def _hash_foreign(tokens: list[str]) -> tuple[U64, I64]:
    folded = pl.select(normalized(pl.lit(pl.Series(tokens))).str.replace_many(LOOK_ALIKES)).to_series()
    data = b" " + folded.str.join(" ").item().encode() + b" " * 8
    hashes, starts, _ = _hash_tokens(data)
    began = np.concatenate([[0], np.cumsum(folded.str.len_bytes().to_numpy().astype(np.int64) + 1)]) + 1
    return hashes, np.searchsorted(starts, began)


def _hash_tokens(data: bytes) -> tuple[U64, I64, I64]:
    """Hash and start of each run of bytes between spaces, and which of them go beyond ASCII."""
    flat = np.frombuffer(data, np.uint8)
    inside = flat != SPACE
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    size = ends - starts
    eight: Any = np.ndarray(len(flat) - 7, "<u8", flat.data, strides=(1,))  # the 8 bytes from each byte on
    mask = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
    hashes = _mix(eight[starts] & mask[np.minimum(size, 8)])
    longer = np.flatnonzero(size > 8)
    for first in range(8, LONG_WORD, 8):
        longer = longer[size[longer] > first]
        rest = eight[starts[longer] + first] & mask[np.minimum(size[longer] - first, 8)]
        hashes[longer] = _mix(hashes[longer] * MULTIPLIER + rest)
    for place in longer[size[longer] > LONG_WORD]:
        hashes[place] = _hash_bytes(data[starts[place] : ends[place]])
    beyond = np.flatnonzero(flat >= 128)
    foreign = np.unique(np.searchsorted(starts, beyond, side="right") - 1)
    return hashes, starts, foreign


def _tokens_at(data: bytes, starts: I64, places: I64) -> list[str]:
    return [data[start : data.index(b" ", start)].decode() for start in starts[places].tolist()]


def _hash_in_order(words: U64, offsets: I64) -> U64:
    """A polynomial over the words of each text, and their number."""
    size = np.diff(offsets)
    sums = np.zeros(len(size), np.uint64)
    if len(words):
        place = np.arange(len(words)) - np.repeat(offsets[:-1], size)
        powers = np.cumprod(np.full(size.max(), MULTIPLIER))
        filled = size > 0
        sums[filled] = np.add.reduceat(words * powers[place], offsets[:-1][filled])
    return _mix(sums + size.astype(np.uint64))


def _hash_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _mix(values: U64) -> U64:
    values = values ^ (values >> SHIFT)
    values = values * MIX[0]
    values ^= values >> SHIFT
    values *= MIX[1]
    return values ^ (values >> SHIFT)


def _ranges(counts: I64) -> I64:
    """0 .. count - 1 for each count, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
