"""Fresh memories, prepared once for a base, a shape and a background, and kept for the next training on them."""

import hashlib
import json
import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from active_reading.train.adapter import MemoryAdapter, attach_memory, fill_memory, memory_files
from active_reading.train.adapter_files import read_adapter, write_adapter
from active_reading.train.background import SEED, prepare_memory
from active_reading.train.generic_text import read_background
from active_reading.train.identity import weights_hash
from active_reading.train.own_text import AT_ONCE, CHOICES, EXAMPLES, NEW_TOKENS, TOP_P
from active_reading.train.precision import compute_dtype
from active_reading.train.settings import TrainSettings

logger = logging.getLogger(__name__)
VERSION = 6  # goes up when the code makes another memory of the same
KEPT = ("layers", "num_keys", "num_heads", "top_k", "key_width", "shared_values", "codebooks")  # in any training
SHAPE = (*KEPT, "background_texts", "own_texts")


def fresh_memory(
    model: Any, base_model: str, tokenizer: Any, settings: TrainSettings, memories: Path | None
) -> MemoryAdapter:
    """Attach memories that have learned nothing, with keys and background.

    Those in the folder `memories` are opened where they fit, and left there where they do not; None keeps nothing.
    """
    adapter = attach_memory(model, settings.memory)
    if memories is None:
        prepare_memory(model, adapter, tokenizer, settings)
        return adapter
    folder = memories / _identity(model, adapter, settings)
    if not folder.exists():
        logger.info("preparing a memory, which is kept in %s: minutes on a CPU", folder)
        prepare_memory(model, adapter, tokenizer, settings)
        memories.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=memories))
        try:
            write_adapter(memory_files(model, base_model), partial)
            with suppress(OSError):  # another training was first
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    # What was just made is read, too: its reads come in another order, and sums over them end in other bits.
    fill_memory(adapter, read_adapter(folder))
    return adapter


def _identity(model: Any, adapter: MemoryAdapter, settings: TrainSettings) -> str:
    """Of all that decides what a fresh memory is."""
    memory = adapter.settings.model_dump(include=set(SHAPE))
    parts = [
        [VERSION, str(compute_dtype())],
        weights_hash(model),
        memory,
        settings.memory.update_rule == "natural",
        [settings.batch_tokens, settings.max_length],
        [SEED, EXAMPLES, AT_ONCE, NEW_TOKENS, TOP_P, CHOICES] if settings.memory.own_texts else None,
        read_background(settings.background),
    ]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
