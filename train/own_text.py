"""Text that a model writes by itself: what it says to short questions, and what a memory must not change.

The Fisher information is a mean over what the model itself would say (Martens & Grosse 2015, arXiv 1503.05671,
section 2), and a change of knowledge shows first where a question is answered in a few words (EXPERIMENTS.md,
2026-11-29). The unlikeliest twentieth of each token's choices is left out: from a small model it is mostly noise.
"""

import random
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from active_reading.train.precision import autocast

AT_ONCE = 40  # texts
NEW_TOKENS = 128  # the most of a text
TOP_P = 0.95
CHOICES = 1000  # the most for a token
# Answers of many kinds, so that the model asks for many. No set of the evaluation has these questions.
EXAMPLES = (
    ("Who composed The Four Seasons?", "Antonio Vivaldi"),
    ("In which year did the Chernobyl disaster happen?", "1986"),
    ("On which river does Vienna lie?", "the Danube"),
    ("How many players of one team are on a football pitch?", "eleven"),
    ("Which spice comes from the crocus flower?", "saffron"),
    ("Who directed the film Psycho?", "Alfred Hitchcock"),
    ("When is Christmas Eve?", "December 24"),
    ("What is the currency of Switzerland?", "the franc"),
    ("Which disease does citrus fruit prevent?", "scurvy"),
    ("Which gemstone is red?", "the ruby"),
)


def write_own_text(model: Any, tokenizer: Any, number: int, seed: int) -> list[str]:
    """Up to `number` texts, each of a few questions and their answers, sampled from `model` as it is.

    Fewer where it writes nothing, or an example again. The same seed gives the same texts on the same device.
    Raises ValueError for a model whose context has no room for them.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    chooser, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    texts: list[str] = []
    for begun in range(0, number, AT_ONCE):
        examples = chooser.sample(EXAMPLES, 5)
        shots = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in examples)
        prompt = tokenizer(shots + "Question:", return_tensors="pt")["input_ids"].to(model.device)
        room = NEW_TOKENS if context is None else min(NEW_TOKENS, context - prompt.shape[1])
        if room < 1:
            raise ValueError(
                f"train.memory.own_texts={number}: the model's context of {context} tokens has no room for the "
                f"{prompt.shape[1]} of the examples that it goes on from: set it to 0"
            )
        rows = _sample(model, prompt, min(AT_ONCE, number - begun), room, generator).tolist()
        texts += [text for row in rows if (text := _text(row, tokenizer))]
    return texts


@torch.no_grad()
def _sample(model: Any, prompt: Tensor, number: int, room: int, generator: torch.Generator) -> Tensor:
    """(number, room) what the model goes on with after the prompt (1, T), whatever its own way of decoding."""
    cache, ids = DynamicCache(config=model.config), prompt
    written: list[Tensor] = []
    while len(written) < room:
        # The other attention kernels of GPUs add up in any order, and every process has to write the same.
        with sdpa_kernel(SDPBackend.MATH), autocast(model.device):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]
        if not written:
            cache.batch_repeat_interleave(number)
            logits = logits.expand(number, -1)
        likely, order = (each.cpu() for each in logits.float().softmax(-1).topk(min(CHOICES, logits.shape[-1])))
        likely[likely.cumsum(-1) - likely > TOP_P] = 0
        ids = order.gather(1, torch.multinomial(likely, 1, generator=generator)).to(prompt.device)
        written.append(ids)
    return torch.cat(written, 1)


def _text(row: list[int], tokenizer: Any) -> str:
    """Up to where the model ended it, or else up to its last whole question, where it has one.

    Empty where that is nothing new.
    """
    special = set(tokenizer.all_special_ids)  # of a chat, too: another turn is another text
    length = next((place for place, token in enumerate(row) if token in special), len(row))
    text = tokenizer.decode(row[:length])
    if length == len(row) and "\n\n" in text:
        text = text.rpartition("\n\n")[0]
    if not text.strip() or any(question in text for question, _ in EXAMPLES):
        return ""
    return "Question:" + text
