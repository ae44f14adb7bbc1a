"""Content hashes: ids depend on what a thing says, never on order, path, time or machine."""

import hashlib
import json


def content_hash(*parts: object, size: int = 8) -> str:
    """Hex digest of `size` bytes over the parts, which must be JSON values."""
    payload = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
