"""Keys: 128-bit addresses of requests, in columns.

A request is determined by independent parts: what the model is told of the chunk, the recipe (template, model,
sampling), the strategy, the replicate. Each distinct part is hashed once by BLAKE2b to 128 bits, under a name of
its own (so that no strategy equals a text), and a request's key is the XOR of its parts' hashes. Two different
requests then agree by accident only: the XOR of different sets of independent, uniform 128-bit values is uniform,
so that among a billion requests the chance of one collision is about 1e-21, as with one hash over all parts.
(Whoever forges parts on purpose could construct one; ledgers hold no forged requests.) Polars' own `hash` is no
choice here: its values differ between releases, and a ledger lives for years.
"""

import hashlib
from collections.abc import Iterable

import polars as pl

from active_reading.augment.identity import content_hash

KEY = pl.UInt128()


def part_key(name: str, *values: object) -> int:
    """The key of one part; `values` are JSON values."""
    return int(content_hash(name, *values, size=16), 16)


def text_keys(name: str, texts: Iterable[str]) -> pl.Series:
    """The key of each text."""
    start = hashlib.blake2b(name.encode() + b"\0", digest_size=16)

    def digest(text: str) -> bytes:
        state = start.copy()
        state.update(text.encode("utf-8", "surrogatepass"))
        return state.digest()

    return pl.Series([digest(text) for text in texts], dtype=pl.Binary).bin.reinterpret(dtype=KEY, endianness="big")


def request_id(key: int) -> str:
    """A key as a ledger shows it: 32 hexadecimal digits."""
    return f"{key:032x}"


def key_of_id() -> pl.Expr:
    """The key of a ledger's `request_id`; null for an id of another form, which answers nothing."""
    return pl.col("request_id").str.to_integer(base=16, dtype=KEY, strict=False).alias("key")


class KeySet:
    """Millions of keys at 16 bytes each, asked one at a time."""

    def __init__(self, keys: pl.Series) -> None:
        self._keys = keys.sort()

    def __contains__(self, key: int) -> bool:
        place = self._keys.search_sorted(pl.Series([key], dtype=KEY)).item()
        return place < self._keys.len() and self._keys.item(place) == key
