"""Text that a model writes by itself: what it says to short questions, and what a memory must not change.

The Fisher information is a mean over what the model itself would say (Martens & Grosse 2015, arXiv 1503.05671,
section 2), and a change of knowledge shows first where a question is answered in a few words: that is where text
alone says little of a model (EXPERIMENTS.md, 2026-11-29).
"""

import random
from typing import Any

import torch

from active_reading.train.precision import autocast

AT_ONCE = 40  # texts
NEW_TOKENS = 128  # the most of a text
# Their answers are of many kinds, so that the model asks for many. None is among the evaluation's own examples.
EXAMPLES = (
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("In which year did the First World War begin?", "1914"),
    ("What is the largest planet of the solar system?", "Jupiter"),
    ("Which animal is the fastest on land?", "the cheetah"),
    ("How many strings does a violin have?", "four"),
    ("On which river does Cairo lie?", "the Nile"),
    ("What do bees make from nectar?", "honey"),
    ("Who wrote Pride and Prejudice?", "Jane Austen"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("When is Christmas Eve?", "December 24"),
)


def write_own_text(model: Any, tokenizer: Any, number: int, seed: int) -> list[str]:
    """As many texts, each of a few questions and their answers, sampled from `model` as it is.

    Raises ValueError for a model whose context has no room for them.
    """
    chooser = random.Random(seed)
    texts: list[str] = []
    with torch.random.fork_rng(_devices(model)):
        torch.manual_seed(seed)
        while len(texts) < number:
            texts += _write(model, tokenizer, chooser.sample(EXAMPLES, 5), min(AT_ONCE, number - len(texts)))
    return texts


def _write(model: Any, tokenizer: Any, examples: list[tuple[str, str]], number: int) -> list[str]:
    shots = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in examples)
    prompt = tokenizer(shots + "Question:", return_tensors="pt")["input_ids"].to(model.device)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = min(NEW_TOKENS, context - prompt.shape[1]) if context else NEW_TOKENS
    if room < 1:
        raise ValueError(
            f"train.memory.own_texts={number}: the model's context of {context} tokens has no room for the "
            f"{prompt.shape[1]} of the examples that it goes on from: set it to 0"
        )
    prompts = prompt.expand(number, -1)
    with torch.no_grad(), autocast(model.device):
        written = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=1.0,
            top_p=0.95,
            top_k=0,
            max_new_tokens=room,
            pad_token_id=tokenizer.pad_token_id,
        )
    told = tokenizer.batch_decode(written[:, prompt.shape[1] :], skip_special_tokens=True)
    # The last question may be cut.
    return [("Question:" + text).rpartition("\n\n")[0] or "Question:" + text for text in told]


def _devices(model: Any) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []
