"""Train one model: full finetuning, LoRA or sparse memory finetuning, on one and the same loop.

In: texts and a base model. Out: a folder that `load.load_model` opens (the whole model, a LoRA adapter, or
a memory adapter with the patch that leads to it), `metrics.jsonl` (loss per step) and a summary.
Weights that learn are fp32, with bf16 autocast where that is fast; a sequence sees only itself. Under
`accelerate launch` or `torchrun` the sequences of each batch are shared out among the processes.
"""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from active_reading.train.batches import Batch, Sequence, add_replay, join_texts, plan_batches, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.load import load_tokenizer
from active_reading.train.loop import AfterStep, Loop, NotFinite, Progress, Watcher
from active_reading.train.out_of_memory import out_of_memory
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.student import Student, make_student

CURE = "lower train.batch_tokens, train.texts_per_sequence or train.max_length"


def train_model(
    texts: list[str],
    base_model: str,
    method: Method,
    settings: TrainSettings,
    folder: Path,
    progress: Progress,
    groups: list[str] | None = None,
    on_step: Callable[[int, Any], None] | None = None,
    memories: Path | None = None,
) -> dict[str, Any]:
    """Train `base_model` on `texts` and save the result in `folder`.

    `base_model` is a folder or a Hugging Face id, or a folder that the same method made: it is trained on.
    `groups` names the chunk of each text, for `group_by: chunk`. `on_step(step, model)` is called after each step,
    under the training's autocast. Fresh memories are kept in the folder `memories` for other trainings on the same
    base. Where `folder` holds checkpoints of the same training, it goes on from the last one.
    Returns tokens, steps, seconds, final loss, trainable and touched parameters, and for memories how evenly
    generic text uses their slots.
    Raises ValueError for an empty data set, a model that memory does not fit or that packing does not, texts
    longer than the model's context, what FSDP cannot train, a loss that is not finite (the state before it is
    kept) and a lack of memory.
    """
    began = time.monotonic()
    torch.manual_seed(settings.seed)
    tokenizer = load_tokenizer(base_model)
    batches, once = _plan(texts, groups, tokenizer, settings)
    num_tokens = sum(len(sequence) for batch in batches for sequence in batch.new)
    provenance = f"{len(texts)} texts, {num_tokens} tokens"
    with out_of_memory(CURE):
        student = make_student(base_model, method, settings, tokenizer, once, memories)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = _last_checkpoint(folder)
    watcher = Watcher(folder / "metrics.jsonl", progress, checkpoint)
    callbacks = [watcher, *([AfterStep(on_step, student.model)] if on_step else [])]
    try:
        with out_of_memory(CURE):
            loop = Loop(student, batches, settings, folder, callbacks)
            loop.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NotFinite as problem:
        if loop.state.global_step == 0:
            raise ValueError(f"{problem}, before any training: the weights in {base_model} are broken") from None
        kept = _keep_last_good(loop, student, folder, provenance)
        raise ValueError(f"{problem}: lower train.learning_rates.{method} ({kept})") from None
    student.finish(len(batches), settings.memory.protect_learned)
    _save(loop, student, folder, provenance)
    if loop.is_world_process_zero():
        for old in folder.glob("checkpoint-*"):
            _remove_checkpoint(old)
    summary = {
        "tokens": num_tokens,
        "replay_tokens": sum(len(sequence) for batch in batches for sequence in batch.replay),
        "steps": len(batches),
        "seconds": round(time.monotonic() - began, 1),
        "final_loss": watcher.recent_loss(),
        "trainable_parameters": student.trainable,
        "touched_parameters": student.touched(),
    }
    return summary | ({"slot_usage": student.slot_usage} if student.slot_usage else {})


def _plan(
    texts: list[str], groups: list[str] | None, tokenizer: Any, settings: TrainSettings
) -> tuple[list[Batch], list[Sequence]]:
    """The batches, and of their sequences each once: in company, those of about one pass over the texts."""
    joined = settings.texts_per_sequence > 1
    passes = iter([texts])
    if joined:
        chooser = random.Random(settings.seed)
        passes = join_texts(texts, tokenizer, settings.texts_per_sequence, settings.max_length, chooser)
    sequences: list[Sequence] = []
    sizes: list[int] = []  # tokens of each pass
    for given in passes:
        more = tokenize(given, tokenizer, settings.max_length, settings.question_loss == "answer")
        sequences += more
        sizes.append(sum(map(len, more)))
        if sum(sizes) >= settings.num_tokens:
            break
    if settings.group_by == "length":
        groups = None
    elif groups is None or len(sequences) != len(texts):
        raise ValueError("train.group_by=chunk needs the chunk of every text, and no text without a token")
    planned = plan_batches(
        sequences, settings.num_tokens, settings.batch_tokens, settings.seed, groups, shuffled=joined
    )
    replay: list[Sequence] = []
    if settings.replay_share:  # learned whole, questions too: it stands for all that the model should keep
        replay = tokenize(read_background(settings.background), tokenizer, settings.max_length)
    batches = add_replay(planned, replay, settings.replay_share, settings.seed)
    batches = [batch for batch in batches if batch.num_targets]  # none where a cut left questions alone
    if not batches:
        raise ValueError(f"train.num_tokens={settings.num_tokens} leaves no text with anything to learn")
    return batches, _once(batches, sizes[0] if joined else settings.num_tokens)


def _once(batches: list[Batch], num_tokens: int) -> list[Sequence]:
    """The new sequences, each once, until they have `num_tokens` tokens: later epochs repeat them."""
    found: dict[tuple[int, ...], Sequence] = {}
    for sequence in (sequence for batch in batches for sequence in batch.new):
        if num_tokens > 0 and tuple(sequence.ids) not in found:
            found[tuple(sequence.ids)] = sequence
            num_tokens -= len(sequence)
    return list(found.values())


def _save(loop: Loop, student: Student, folder: Path, provenance: str) -> None:
    """The first process writes; none goes on before it has."""
    weights = loop.whole_weights()
    if loop.is_world_process_zero():
        student.save(folder, provenance, weights)
    loop.accelerator.wait_for_everyone()


def _keep_last_good(loop: Loop, student: Student, folder: Path, provenance: str) -> str:
    """Save the model as of the last checkpoint with a finite loss, if there is one; says what was kept."""
    if loop.is_world_process_zero():
        # A checkpoint of the weights that gave this loss is as bad as they are.
        _remove_checkpoint(folder / f"checkpoint-{loop.state.global_step}")
    loop.accelerator.wait_for_everyone()
    good = _last_checkpoint(folder)
    if not good:
        return "no checkpoint was made before it"
    loop._load_from_checkpoint(str(good))
    _save(loop, student, folder / "last-good", provenance)
    return f"the model as of {good.name} is in {folder / 'last-good'}"


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end: the trainer's state comes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _remove_checkpoint(folder: Path) -> None:
    """Remove first what makes it whole: one that was removed by half must not be resumed from."""
    (folder / "trainer_state.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
