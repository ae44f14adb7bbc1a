"""A small data set of two documents, as export writes it, for the tests of whatever is done with one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from active_reading.augment.export import ExportSettings, make_rows, write_dataset

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A real fast tokenizer of words and marks, which adds an opening token unless told not to."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", bos_token="[BOS]")


@pytest.fixture(scope="session")
def chunks() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "chunk_id": ["c1", "c2", "c3"],
            "document_id": ["d1", "d1", "d2"],
            "source": ["owl.md", "owl.md", "deep/eel.txt"],
            "title": ["Owls", "Owls", "eel"],
            "start": [0, 28, 0],
            "end": [26, 62, 13],
            "num_tokens": [99, 99, 99],
            "text": [
                "The owl sleeps in the oak.",
                '\u00c9lodie\'s owl \U0001f989 wakes.\n\n"Hoo," it says.',
                "An eel hides.",
            ],
        }
    )


@pytest.fixture(scope="session")
def distinct() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": ["t1", "t2", "t3"],
            "request_id": ["r1", "r2", "r3"],
            "chunk_id": ["c3", "c1", "c1"],
            "template": ["questions", "paraphrase", "apply_strategy"],
            "strategy": [None, None, "List every tree"],
            "text": [
                "Question: What hides?\nAnswer: An eel",
                "In the oak sleeps \u0141ukasz; {{ x }} | <b>",
                "Oak: a tree\t\u2028.",
            ],
        }
    )


ANSWERS = {"questions": "questions", "paraphrase": "text", "apply_strategy": "text"}


@pytest.fixture
def write(tokenizer: Any, chunks: pl.DataFrame, distinct: pl.DataFrame) -> Write:
    """Writes the rows of a data set into a folder: of the given chunks and texts, or of those above."""

    def written(
        folder: Path,
        chunks: pl.DataFrame = chunks,
        distinct: pl.DataFrame = distinct,
        removed: Sequence[str] = (),
    ) -> Path:
        fallen = pl.DataFrame({"id": removed, "template": "any"}, schema={"id": pl.String, "template": pl.String})
        batches = make_rows(chunks, distinct.lazy(), fallen, ANSWERS, tokenizer)
        write_dataset(batches, ExportSettings().instruction, tokenizer, folder)
        return folder

    return written
