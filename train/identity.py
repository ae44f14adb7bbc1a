"""Identity of a model: the hash of its weights, whatever the number format it was loaded in."""

import hashlib
from typing import Any

import torch


def weights_hash(model: Any) -> str:
    """Hash of the base's names, shapes and weights as bf16; memories are left out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith("memories."):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            bits = tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16)
            digest.update(bits.numpy().data)
    return digest.hexdigest()
