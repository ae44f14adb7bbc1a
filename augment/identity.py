"""Content hashes: ids depend on what a thing says, never on order, path, time or machine."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def content_hash(*parts: object, size: int = 8) -> str:
    """Hex digest of `size` bytes over the parts, which must be JSON values."""
    payload = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


def texts_hash(texts: Iterable[str]) -> str:
    """Hash of texts in their order, however many."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
