"""A lack of memory, of the machine or of the GPU, as an error that says what to lower. No model here."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def out_of_memory(cure: str) -> Iterator[None]:
    """Within it, a lack of memory is a ValueError that tells `cure`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ValueError(f"out of memory: {cure}") from None
        raise
