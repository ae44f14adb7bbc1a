"""What the tests of batches share: sequences of made-up tokens, and a tokenizer of words."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from active_reading.train.batches import Sequence


class WordTokenizer:
    """Each word is a token: its length."""

    def __init__(self, eos_token_id: int | None = 0) -> None:
        self.eos_token_id = eos_token_id

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}


def texts_of(lengths: list[int]) -> list[Sequence]:
    """One sequence per length, all its tokens the text's own number."""
    return [Sequence([number] * length) for number, length in enumerate(lengths)]


def plain(*texts: list[int]) -> list[Sequence]:
    return [Sequence(ids) for ids in texts]


def ids_of(texts: Iterable[Sequence]) -> list[list[int]]:
    return [text.ids for text in texts]


def flat(batches: list[list[Sequence]]) -> list[list[int]]:
    return ids_of(chain.from_iterable(batches))


def total(batches: list[list[Sequence]]) -> int:
    return sum(map(len, flat(batches)))


PROMPTED = st.lists(st.tuples(st.integers(3, 30), st.integers(0, 30)), min_size=1, max_size=10)


def prompted(members: list[tuple[int, int]]) -> list[Sequence]:
    """As `texts_of`, each with a prompt that may be all of it."""
    return [Sequence([number] * length, min(length, prompt)) for number, (length, prompt) in enumerate(members)]
