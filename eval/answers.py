"""Ask a model closed-book questions, and measure how likely it finds given texts.

The few-shot examples in front of every question are read once and their key-value cache is shared.
B batch, T tokens.
NOT covered: models whose attention window is shorter than a prompt (padding takes up room in it), models with a
recurrent state in place of keys and values, and those whose attention counts padding as distance (ALiBi).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from active_reading.eval.questions import Question
from active_reading.eval.settings import QUESTION_FORMAT


@dataclass(frozen=True)
class Prompts:
    """Questions behind the worked examples (B, T), padded between the two; the cache lacks each last token."""

    ids: Tensor
    mask: Tensor
    cache: DynamicCache


class ClosedBook:
    """A model with a few worked examples in mind, ready for questions.

    What it has read is kept: a model that has learned something since needs a new one. `form` is how a question
    is put (see `EvaluateSettings.question_format`); its answer follows after a space.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        examples: list[Question],
        max_new_tokens: int,
        form: str = QUESTION_FORMAT,
    ) -> None:
        self.model, self.tokenizer, self.max_new_tokens, self.form = model, tokenizer, max_new_tokens, form
        shots = "".join(f"{self._asked(e)} {e.answers[0]}\n\n" for e in examples)
        self.prefix = tokenizer(shots, return_tensors="pt")["input_ids"].to(model.device)
        if not examples:
            self.prefix = torch.tensor([[tokenizer.eos_token_id]], device=model.device)
        self.cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=self.prefix, past_key_values=self.cache, use_cache=True)
        self.last: tuple[list[Question], Prompts] | None = None

    @torch.no_grad()
    def answer(self, questions: list[Question]) -> list[str]:
        """Greedy answers, each cut at the end of its line."""
        prompts = self._read(questions)
        written = self.model.generate(
            input_ids=prompts.ids,
            attention_mask=prompts.mask,
            past_key_values=copy.deepcopy(prompts.cache),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            stop_strings=["\n"],
            tokenizer=self.tokenizer,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(written[:, prompts.ids.shape[1] :], skip_special_tokens=True)
        return [text.partition("\n")[0].strip() for text in texts]

    @torch.no_grad()
    def answer_nll(self, questions: list[Question]) -> list[float]:
        """Mean negative log-likelihood per token (nats) of each question's first answer."""
        prompts = self._read(questions)
        golds = [self._tokens(f" {q.answers[0]}") for q in questions]
        ids, mask = pad_right(golds, self.tokenizer.pad_token_id)
        ids, mask = ids.to(self.model.device), mask.to(self.model.device)
        # The last token of the prompt predicts the first of the answer.
        ids = torch.cat([prompts.ids[:, -1:], ids], dim=1)
        full_mask = torch.cat([prompts.mask, mask], dim=1)
        logits = self.model(
            input_ids=ids,
            attention_mask=full_mask,
            position_ids=positions(full_mask)[:, -ids.shape[1] :],
            past_key_values=copy.deepcopy(prompts.cache),
        ).logits
        losses = token_nll(logits, ids)
        return [float(losses[row, : len(gold)].mean()) for row, gold in enumerate(golds)]

    def _read(self, questions: list[Question]) -> Prompts:
        """Read the questions once, for their answers and for the likelihood of the gold ones."""
        if self.last is None or self.last[0] != questions:
            self.last = None  # two caches at a time are one too many
            rows = [self._tokens(f"{_passage(q)}{self._asked(q)}") for q in questions]
            ids, mask = pad_left(rows, self.tokenizer.pad_token_id)
            ids, mask = ids.to(self.model.device), mask.to(self.model.device)
            prefix = self.prefix.expand(len(rows), -1)
            mask = torch.cat([torch.ones_like(prefix), mask], dim=1)
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(rows))
            self.model(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=positions(mask)[:, prefix.shape[1] : -1],
                past_key_values=cache,
                logits_to_keep=1,
            )
            self.last = list(questions), Prompts(torch.cat([prefix, ids], dim=1), mask, cache)
        return self.last[1]

    def _asked(self, question: Question) -> str:
        return self.form.replace("{question}", question.question)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _passage(question: Question) -> str:
    return f"Passage: {question.context}\n\n" if question.context else ""


@torch.no_grad()
def text_nll(model: Any, tokenizer: Any, texts: list[str], batch_size: int, max_length: int = 512) -> list[float]:
    """Mean negative log-likelihood per token (nats) of each text, its first token excepted.

    Raises ValueError, before the model is run, for a text of fewer than two tokens: it has nothing to predict.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 2:
            raise ValueError(f"the text {text!r} has {len(row)} tokens, and an NLL needs two: leave it out")
    losses = [0.0] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # little padding
    for batch in batched(by_length, batch_size):
        ids, mask = pad_right([rows[index] for index in batch], tokenizer.pad_token_id)
        ids, mask = ids.to(model.device), mask.to(model.device)
        per_token = token_nll(model(input_ids=ids, attention_mask=mask).logits, ids)
        for row, index in enumerate(batch):
            losses[index] = float(per_token[row, : len(rows[index]) - 1].mean())
    return losses


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """(B, T-1) negative log-likelihood of each next token, from logits (B, T, V)."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1)


def pad_left(rows: list[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """(B, T) place of each token among the real ones of its row; padding gets any."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def pad_right(rows: list[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def batched(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive pieces of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
