"""Batches: texts -> batches of sequences of one text or a few, padded or packed, up to an exact token budget.

Texts repeat, reshuffled every epoch, until the budget is spent; the last text is cut to meet it. A batch
holds `batch_tokens` tokens of texts of like length, so that little is padding, or of texts of one group.
Replay (generic text among the new) comes on top of the budget. All methods that train on the same texts
see the same batches. Budget, batch and replay are counted in tokens, whether they are targets or not.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any

import torch

IGNORED = -100  # label that the loss leaves out
NO_TEXT = "the data set has no text to train on"
SEPARATOR = "\n\n"  # between the texts of a sequence
QUESTION = re.compile(r"Question: .*?\nAnswer:", re.DOTALL)  # what stands before an answer, see augment/filter.py


@dataclass(frozen=True)
class Sequence:
    """The tokens of a text, of which the first `num_prompt` are read and not learned."""

    ids: list[int]
    num_prompt: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        """Tokens to predict: the first one never is, for nothing stands before it."""
        return len(self.ids) - max(1, self.num_prompt) if self.ids else 0

    def part(self, start: int, stop: int) -> "Sequence":
        ids = self.ids[start:stop]
        return Sequence(ids, min(max(0, self.num_prompt - start), len(ids)))


@dataclass
class Batch:
    """The sequences of one step: new ones, and replay of generic text."""

    new: list[Sequence]
    replay: list[Sequence] = field(default_factory=list)

    @property
    def num_targets(self) -> int:
        """Tokens that the loss is the mean over."""
        return sum(sequence.num_targets for sequence in self.new + self.replay)


def tokenize(texts: list[str], tokenizer: Any, max_length: int, answers_only: bool = False) -> list[Sequence]:
    """Tokens of each text with the end-of-text token, cut at `max_length`.

    With `answers_only` the targets of a text "Question: ...\\nAnswer: ..." are its answer and the end; it has
    none where the cut leaves nothing of the answer.

    Raises ValueError when there is no text, and for a tokenizer that does not say where its tokens stand.
    """
    if answers_only and not tokenizer.is_fast:
        raise ValueError(
            f"train.question_loss=answer: {type(tokenizer).__name__} does not say where in a text its tokens stand"
        )
    if not texts:
        raise ValueError(NO_TEXT)
    places = {"return_offsets_mapping": True} if answers_only else {}
    encoded = tokenizer(texts, add_special_tokens=False, **places)
    prompts = map(_num_prompt, texts, encoded["offset_mapping"]) if answers_only else [0] * len(texts)
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    sequences = []
    for ids, num_prompt in zip(encoded["input_ids"], prompts, strict=True):
        cut = ids[: max_length - len(end)]
        if num_prompt and num_prompt >= len(cut):
            num_prompt = len(cut) + len(end)  # the end of half a question is nothing to learn
        if cut:
            sequences.append(Sequence([*cut, *end], num_prompt))
    if not sequences:
        raise ValueError(NO_TEXT)
    return sequences


def join_texts(
    texts: list[str], tokenizer: Any, texts_per_sequence: int, max_length: int, chooser: random.Random
) -> Iterator[list[str]]:
    """Passes without end over all the texts, in each of them every text once, several behind one another.

    A text that would not fit into `max_length` tokens any more begins the next one.
    """
    texts = [text for text in texts if text.strip()]
    # The separator in front: at the end of a text its tokens are not those that it has between two.
    followers = [SEPARATOR + text for text in texts]
    lengths = list(map(len, tokenizer(followers, add_special_tokens=False)["input_ids"])) if texts else []
    order = list(range(len(texts)))
    while True:
        chooser.shuffle(order)
        joined: list[list[str]] = []
        left = 0
        for index in order:
            if not joined or len(joined[-1]) == texts_per_sequence or lengths[index] > left:
                joined.append([])
                left = max_length - 1  # the end-of-text token
            joined[-1].append(texts[index])
            left -= lengths[index]
        yield [SEPARATOR.join(company) for company in joined]


def plan_batches(
    sequences: list[Sequence],
    num_tokens: int,
    batch_tokens: int,
    seed: int,
    groups: list[str] | None = None,
    shuffled: bool = False,
) -> list[list[Sequence]]:
    """Batches that hold `num_tokens` tokens in all (one fewer where texts of two tokens leave no choice).

    With `groups` (one name per sequence) a batch has texts of one group alone. The first epoch of `shuffled`
    sequences keeps their order. Sequences that are all prompt are left out; the cut that meets the budget may
    still leave a text, or a batch, without a target.

    Raises ValueError when no sequence is left.
    """
    learnable = [sequence.num_prompt < len(sequence) for sequence in sequences]
    if not any(learnable):
        raise ValueError("no text has its answer within train.max_length tokens: there is nothing to learn")
    sequences = list(compress(sequences, learnable))
    groups = list(compress(groups, learnable)) if groups is not None else None
    chooser = random.Random(seed)
    if groups is not None:
        return list(_group_batches(sequences, groups, num_tokens, batch_tokens, chooser))
    first = sequences if shuffled else []
    chosen = list(_up_to(chain(first, _epochs(sequences, chooser)), num_tokens))
    batches: list[list[Sequence]] = []
    # Texts of like length go together within a window of ten batches; the order in time stays random.
    for window in _groups(chosen, 10 * batch_tokens):
        parts = list(_groups(sorted(window, key=len), batch_tokens))
        chooser.shuffle(parts)
        batches += parts
    return batches


def mixed_batches(sequences: list[Sequence], batch_tokens: int, seed: int) -> list[list[Sequence]]:
    """Every sequence once, in batches of all lengths and kinds of text."""
    order = list(sequences)
    random.Random(seed).shuffle(order)
    return list(_groups(order, batch_tokens))


def even_batches(sequences: list[Sequence], batch_tokens: int) -> list[list[Sequence]]:
    """Every sequence once, in batches of like lengths: hardly any padding."""
    return list(_groups(sorted(sequences, key=len), batch_tokens))


def add_replay(batches: list[list[Sequence]], replay: list[Sequence], share: float, seed: int) -> list[Batch]:
    """Add replay until it is `share` of all tokens, spread evenly.

    A piece is no longer than its batch is wide, and comes as soon as one that wide, or a quarter of the batch, is
    owed: a share of 5 % would else come once in twenty batches of one long sequence.
    """
    chooser = random.Random(seed)
    source = _epochs(replay, chooser) if share else iter(())
    mixed, owed = [], 0.0
    for sequences in batches:
        batch = Batch(sequences)
        num_new, widest = sum(map(len, sequences)), max(2, *map(len, sequences))
        least = max(2, min(widest, num_new // 4))
        owed += share / (1 - share) * num_new
        while owed >= least:
            width = min(widest, int(owed))
            text = next(source)
            start = chooser.randrange(max(1, len(text) - width + 1))
            batch.replay.append(text.part(start, start + width))
            owed -= len(batch.replay[-1])
        mixed.append(batch)
    return mixed


def collate(
    batch: Batch, pad_token_id: int, rank: int = 0, num_ranks: int = 1, packing: bool = False
) -> dict[str, Any]:
    """What one of `num_ranks` processes computes of a batch.

    `input_ids`, `labels`, `memory_mask` (1 on tokens that choose slots: the new ones), each (B, T); and
    `num_targets` of the whole batch, an int. Padded on the right, with `attention_mask` (B, T); or with
    `packing` end to end in one row, B = 1, with `position_ids` (1, T) that begin at zero with each text: without
    an attention mask beside them, transformers lets a text see only itself.
    """
    rows = [(text, 1) for text in batch.new] + [(text, 0) for text in batch.replay]
    idle = Sequence([pad_token_id, pad_token_id], num_prompt=2)  # a rank without work still takes part
    rows = rows[rank::num_ranks] or [(idle, 0)]
    tensors = _packed(rows) if packing else _padded(rows, pad_token_id)
    return tensors | {"num_targets": batch.num_targets}


def _padded(rows: list[tuple[Sequence, int]], pad_token_id: int) -> dict[str, Any]:
    width = max(len(text) for text, _ in rows)
    input_ids = torch.full((len(rows), width), pad_token_id)
    labels = torch.full_like(input_ids, IGNORED)
    mask, memory_mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
    for row, (text, is_new) in enumerate(rows):
        input_ids[row, : len(text)] = torch.tensor(text.ids)
        labels[row, text.num_prompt : len(text)] = torch.tensor(text.ids[text.num_prompt :])
        mask[row, : len(text)] = 1
        memory_mask[row, : len(text)] = is_new
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "memory_mask": memory_mask}


def _packed(rows: list[tuple[Sequence, int]]) -> dict[str, Any]:
    packed: dict[str, list[int]] = {"input_ids": [], "position_ids": [], "labels": [], "memory_mask": []}
    for text, is_new in rows:
        num_prompt = max(1, text.num_prompt)  # or the text before would be asked for this one's first token
        packed["input_ids"] += text.ids
        packed["position_ids"] += range(len(text))
        packed["labels"] += [IGNORED] * num_prompt + text.ids[num_prompt:]
        packed["memory_mask"] += [is_new] * len(text)
    return {name: torch.tensor([values]) for name, values in packed.items()}


def _num_prompt(text: str, offsets: list[tuple[int, int]]) -> int:
    """How many tokens stand before the answer of a question-answer text, 0 in any other text."""
    question = QUESTION.match(text)
    if not question:
        return 0
    # A token that holds the colon and the beginning of the answer is one of the answer.
    return next((token for token, (_, stop) in enumerate(offsets) if stop > question.end()), len(offsets))


def _up_to(sequences: Iterator[Sequence], num_tokens: int) -> Iterator[Sequence]:
    left = num_tokens
    for sequence in sequences:
        # The last text needs two tokens, one to predict the other: the text before it may have to give one.
        part = sequence.part(0, left - 2 if len(sequence) == left - 1 > 2 else left)
        yield part
        left -= len(part)
        if left < 2:  # asked here, and not above: a text that is taken from an iterator would be lost to it
            return


def _group_batches(
    sequences: list[Sequence], groups: list[str], num_tokens: int, batch_tokens: int, chooser: random.Random
) -> Iterator[list[Sequence]]:
    members: dict[str, list[Sequence]] = defaultdict(list)
    for sequence, group in zip(sequences, groups, strict=True):
        members[group].append(sequence)
    sources = {group: _epochs(texts, chooser) for group, texts in members.items()}
    order, left = [group for group in sorted(members) if sum(map(len, members[group])) > 1], num_tokens
    if not order:
        raise ValueError("no chunk has a text of two tokens or more")
    while left >= 2:
        chooser.shuffle(order)
        for group in order:
            size = min(left, batch_tokens, sum(map(len, members[group])))
            if left - size == 1 and size > 2:
                size -= 1  # a lone token could not be spent
            if size < 2:
                break
            batch = list(_up_to(sources[group], size))
            left -= sum(map(len, batch))
            yield batch


def _epochs(sequences: list[Sequence], chooser: random.Random) -> Iterator[Sequence]:
    order = list(range(len(sequences)))
    while True:
        chooser.shuffle(order)
        yield from (sequences[index] for index in order)


def _groups(sequences: list[Sequence], num_tokens: int) -> Iterator[list[Sequence]]:
    group: list[Sequence] = []
    size = 0
    for sequence in sequences:
        if group and size + len(sequence) > num_tokens:
            yield group
            group, size = [], 0
        group.append(sequence)
        size += len(sequence)
    if group:
        yield group
