"""Meaning: texts -> embeddings -> links between those that point the same way.

An embedding is the mean of the model's last hidden states over the tokens of a text, scaled to length 1 (Reimers
and Gurevych 2019, https://arxiv.org/abs/1908.10084): models made for it are those of sentence-transformers with
mean pooling. A text is known by its first MAX_TOKENS tokens.
All pairs are compared: 100,000 texts at width 384 are 4 * 10^12 multiplications. Rounding may differ by machine.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from active_reading.augment.minhash import components
from active_reading.augment.shingles import I64

MAX_TOKENS = 512
BATCH = 32
BLOCK = 2048  # texts compared with all later ones together
F32 = npt.NDArray[np.float32]


def embed(texts: Sequence[str], model: str) -> F32:
    """(N, D) embeddings of length 1. `model`: a folder with a Hugging Face encoder or decoder, or its id."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    network = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    result = np.zeros((len(texts), network.config.hidden_size), np.float32)
    for start in range(0, len(texts), BATCH):
        places = order[start : start + BATCH]
        given = tokenizer(
            [texts[place] or " " for place in places],
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = network(**given).last_hidden_state  # (B, T, D)
        mask = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        result[places] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return result


def links(vectors: F32, groups: Sequence[str], threshold: float) -> tuple[I64, I64]:
    """Links that join all texts of a group whose cosine is at least the threshold, through others too.

    At most one a text: a million of one meaning are a million links.
    """
    _, group = np.unique(np.asarray(groups, dtype=object), return_inverse=True)
    first = second = np.zeros(0, np.int64)
    for start in range(0, len(vectors), BLOCK):
        near = vectors[start : start + BLOCK] @ vectors[start:].T >= threshold
        near &= group[start : start + BLOCK, None] == group[None, start:]
        ends = np.nonzero(np.triu(near, 1))
        first, second = components(
            np.concatenate([first, ends[0] + start]), np.concatenate([second, ends[1] + start])
        )
    return first, second
