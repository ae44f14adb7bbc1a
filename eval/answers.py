"""Ask a model closed-book questions: its answers, and how likely it finds the gold ones.

What questions share is read once: the worked examples in front of all, and a passage in front of several. A
question is read together with its gold answer; the model's own is then written with the gold one masked out.
B batch, T tokens.
NOT covered: models whose attention window is shorter than a prompt (padding and gold answers take up room in it),
models with a recurrent state in place of keys and values, and those whose attention counts padding as distance
(ALiBi).
"""

import copy
from dataclasses import replace
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from active_reading.eval.questions import Question
from active_reading.eval.settings import QUESTION_FORMAT
from active_reading.eval.texts import token_nll


class Answer(NamedTuple):
    """The model's own answer, and the mean negative log-likelihood per token (nats) of the gold one."""

    text: str
    gold_nll: float


class Read(NamedTuple):
    """Questions that were read, each behind all that stands before it."""

    mask: Tensor  # (B, T) without padding and gold answers
    cache: DynamicCache  # of T tokens
    first: Tensor  # (B,) the likeliest first token of each answer
    gold_nll: list[float]


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
        end = model.generation_config.eos_token_id
        self.ends = set(end) if isinstance(end, list) else {end}
        self.shots = "".join(f"{self._asked(e)} {e.answers[0]}\n\n" for e in examples)
        prefix = [tokenizer.eos_token_id]
        if examples:  # what begins a text may change the last tokens before it: two line ends alone are one token
            followed = (self._asked(examples[0]), _passage(replace(examples[0], context="A text.")))
            prefix = commonprefix([tokenizer(self.shots + text)["input_ids"] for text in followed])
        self.prefix = torch.tensor([prefix], device=model.device)
        self.cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=self.prefix, past_key_values=self.cache, use_cache=True)

    @torch.no_grad()
    def ask(self, questions: list[Question]) -> list[Answer]:
        """Greedy answers, each cut at the end of its line, and how likely each question's first gold answer is."""
        read = self._read(questions)
        texts = self.tokenizer.batch_decode(self._write(read), skip_special_tokens=True)
        lines = [text.partition("\n")[0].strip() for text in texts]
        return [Answer(line, nll) for line, nll in zip(lines, read.gold_nll, strict=True)]

    @torch.no_grad()
    def answer_nll(self, questions: list[Question]) -> list[float]:
        """Mean negative log-likelihood per token (nats) of each question's first answer."""
        return self._read(questions).gold_nll

    def _read(self, questions: list[Question]) -> Read:
        """Read questions and gold answers in one pass, behind the passages, which were read before."""
        prompts = [self._behind_shots(f"{_passage(q)}{self._asked(q)}") for q in questions]
        golds = [self._tokens(f" {q.answers[0]}") for q in questions]
        cache = copy.deepcopy(self.cache)
        mask, starts = self._read_passages(questions, prompts, cache)
        rows = [prompt[start:] + gold for prompt, start, gold in zip(prompts, starts, golds, strict=True)]
        kept = max(map(len, golds)) + 1  # the last token of a prompt predicts the first of the answer
        ids, mask, logits = self._forward(rows, mask, cache, kept)
        nll = [
            float(token_nll(logits[row, -len(gold) - 1 : -1], ids[row, -len(gold) :]).mean())
            for row, gold in enumerate(golds)
        ]
        lengths = torch.tensor([len(gold) for gold in golds], device=ids.device)
        first = logits[torch.arange(len(rows)), -lengths - 1].argmax(-1)
        is_gold = torch.arange(mask.shape[1], 0, -1, device=ids.device) <= lengths[:, None]
        return Read(mask.masked_fill(is_gold, 0), cache, first, nll)

    def _read_passages(
        self, questions: list[Question], prompts: list[list[int]], cache: DynamicCache
    ) -> tuple[Tensor, list[int]]:
        """Mask (B, T) of what stands before each question, now in the cache, and how much of its prompt that is.

        Prompts with the same passage begin with the same tokens, those of the passage: they are read once.
        """
        behind = {q.context: [self._behind_shots(_passage(q))] for q in questions}
        for question, prompt in zip(questions, prompts, strict=True):
            behind[question.context].append(prompt)
        shared = {passage: list(commonprefix(rows)) for passage, rows in behind.items()}
        mask = torch.ones_like(self.prefix)
        if any(shared.values()):
            mask = _select(mask, cache, [0] * len(shared))
            _, mask, _ = self._forward(list(shared.values()), mask, cache, 1)
        row = {passage: place for place, passage in enumerate(shared)}
        mask = _select(mask, cache, [row[question.context] for question in questions])
        return mask, [len(shared[question.context]) for question in questions]

    def _forward(
        self, rows: list[list[int]], mask: Tensor, cache: DynamicCache, kept: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read rows of tokens, padded on the left, into the cache.

        Returns their ids, the mask of all that the cache has now, and logits of the last `kept` tokens.
        """
        ids, more = (each.to(mask.device) for each in pad_left(rows, self.tokenizer.pad_token_id))
        mask = torch.cat([mask, more], dim=1)
        places = positions(mask)[:, -ids.shape[1] :]
        read = {"input_ids": ids, "attention_mask": mask, "position_ids": places, "past_key_values": cache}
        return ids, mask, self.model(**read, logits_to_keep=kept).logits

    def _write(self, read: Read) -> list[list[int]]:
        """The tokens of each answer up to its end; an answer that has ended leaves the batch."""
        mask, cache, tokens, _ = read
        written: list[list[int]] = [[] for _ in tokens]
        rows = list(written)
        while True:
            for row, token in zip(rows, tokens.tolist(), strict=True):
                row.append(token)
            going = [place for place, row in enumerate(rows) if not self._is_whole(row)]
            if not going:
                return written
            if len(going) < len(rows):
                rows, tokens = [rows[place] for place in going], tokens[going]
                mask = _select(mask, cache, going)
            _, mask, logits = self._forward(tokens[:, None].tolist(), mask, cache, 1)
            tokens = logits[:, -1].argmax(-1)

    def _is_whole(self, written: list[int]) -> bool:
        last = written[-1]
        return len(written) == self.max_new_tokens or last in self.ends or "\n" in self.tokenizer.decode([last])

    def _asked(self, question: Question) -> str:
        return self.form.replace("{question}", question.question)

    def _behind_shots(self, text: str) -> list[int]:
        """Tokens of a text behind the worked examples, the same as if all had been tokenized as one."""
        read = self.prefix[0].tolist()
        whole = self.tokenizer(self.shots + text)["input_ids"] if self.shots else []
        return list(whole[len(read) :]) if whole[: len(read)] == read else self._tokens(text)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _passage(question: Question) -> str:
    return f"Passage: {question.context}\n\n" if question.context else ""


def _select(mask: Tensor, cache: DynamicCache, rows: list[int]) -> Tensor:
    """These rows of the mask (B, T); the cache keeps the same ones."""
    places = torch.tensor(rows, device=mask.device)
    cache.batch_select_indices(places)
    return mask[places]


def pad_left(rows: list[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, T)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """(B, T) place of each token among the real ones of its row; padding gets any."""
    return (mask.cumsum(1) - 1).clamp_min(0)
