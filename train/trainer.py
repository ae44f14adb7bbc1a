"""Train one model: full finetuning, LoRA or sparse memory finetuning, on one and the same loop.

In: texts and a base model. Out: a folder that `load.load_model` opens (the whole model, a LoRA adapter, or
a memory adapter), `metrics.jsonl` (loss per step) and a summary.
Weights are fp32, with bf16 autocast where that is fast; one text per sequence.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from active_reading.train.adapter import attach_memory, save_memory
from active_reading.train.batches import Sequence, collate, plan_batches, tokenize
from active_reading.train.codebooks import set_codebooks
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.memory import ProductKeyMemory
from active_reading.train.precision import compute_dtype
from active_reading.train.settings import LoraSettings, Method, TrainSettings
from active_reading.train.slots import count_background
from active_reading.train.sparse_optimizer import SparseRowOptimizer

Progress = Callable[[int, int, str], None]
BACKGROUND = Path(__file__).parent / "data" / "background_text.jsonl"


def train_model(
    texts: list[str],
    base_model: str,
    method: Method,
    settings: TrainSettings,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train `base_model` (folder or Hugging Face id) on `texts` and save the result in `folder`.

    Returns tokens, steps, seconds, final loss, trainable and touched parameters.
    Raises ValueError for an empty data set, a model that memory does not fit, and a loss that is not finite.
    """
    torch.manual_seed(settings.seed)
    tokenizer = load_tokenizer(base_model)
    sequences = tokenize(texts, tokenizer, settings.max_length)
    batches = plan_batches(sequences, settings.num_tokens, settings.batch_tokens, settings.seed)
    model = load_model(base_model)
    if torch.cuda.is_available():
        model = model.cuda()  # before the Trainer would: the background pass runs there too
    optimizer = None
    if method == "memory":
        memories, counts, num_batches = _prepare_memory(model, tokenizer, settings)
        rate = settings.learning_rates.memory
        optimizer = SparseRowOptimizer(memories, counts, num_batches, rate, settings.memory.top_t)
        save = partial(save_memory, model, folder, base_model, settings.memory, counts)
    elif method == "lora":
        model = _add_lora(model, settings.lora)
        save = partial(model.save_pretrained, folder)
    else:
        save = partial(_save_whole, model, tokenizer, folder)
    folder.mkdir(parents=True, exist_ok=True)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    watcher = _Watcher(folder / "metrics.jsonl", progress)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, method, len(batches), folder),
        train_dataset=cast(Any, batches),
        data_collator=lambda items: collate(items[0], tokenizer.pad_token_id),
        callbacks=[watcher],
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    outcome = trainer.train()
    save()
    return {
        "tokens": sum(len(sequence) for batch in batches for sequence in batch),
        "steps": len(batches),
        "seconds": round(outcome.metrics["train_runtime"], 1),
        "final_loss": watcher.recent_loss(),
        "trainable_parameters": trainable,
        "touched_parameters": _touched(optimizer, model) if optimizer else trainable,
    }


def read_background(limit: int) -> list[str]:
    """Generic text that ships with the package; all of it when `limit` is 0.

    Raises ValueError when fewer than `limit` texts ship.
    """
    lines = BACKGROUND.read_text(encoding="utf-8").splitlines()
    if limit > len(lines):
        raise ValueError(f"train.memory.background_texts={limit}, and {len(lines)} ship")
    return [json.loads(line)["text"] for line in lines[: limit or None]]


def _save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _prepare_memory(
    model: Any, tokenizer: Any, settings: TrainSettings
) -> tuple[dict[int, ProductKeyMemory], dict[int, Tensor], int]:
    """Freeze the model, add memories, set their keys and count background reads."""
    model.requires_grad_(False)
    memories = attach_memory(model, settings.memory)
    sequences = tokenize(read_background(settings.memory.background_texts), tokenizer, settings.max_length)
    batches = [collate(batch, tokenizer.pad_token_id) for batch in _background_batches(sequences, settings)]
    device = next(model.parameters()).device
    batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    background = _hidden_states(model, memories, batches)
    counts = {}
    for layer, memory in memories.items():
        set_codebooks(memory, torch.cat(background[layer]), settings.seed)
        counts[layer] = count_background(memory, background[layer])
    return memories, counts, len(batches)


def _background_batches(sequences: list[Sequence], settings: TrainSettings) -> list[list[Sequence]]:
    total = sum(len(sequence) for sequence in sequences)
    return plan_batches(sequences, total, settings.batch_tokens, settings.seed)


@torch.no_grad()
def _hidden_states(
    model: Any, memories: dict[int, ProductKeyMemory], batches: list[dict[str, Tensor]]
) -> dict[int, list[Tensor]]:
    """What each memory will read: per layer one (M, D) of real tokens for each batch."""
    collected: dict[int, list[Tensor]] = {layer: [] for layer in memories}
    mask = torch.empty(0)
    handles = [
        memory.register_forward_pre_hook(
            lambda _, args, layer=layer: collected[layer].append(args[0].flatten(0, 1)[mask].float().cpu())
        )
        for layer, memory in memories.items()
    ]
    device = next(model.parameters()).device
    for batch in batches:
        mask = batch["attention_mask"].flatten().bool()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for handle in handles:
        handle.remove()
    return collected


def _add_lora(model: Any, settings: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _arguments(settings: TrainSettings, method: Method, num_steps: int, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # an item of the data set is a whole batch
        train_sampling_strategy="sequential",
        max_steps=num_steps,
        learning_rate=getattr(settings.learning_rates, method),
        warmup_steps=round(settings.warmup_share * num_steps),
        lr_scheduler_type="linear",
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0 if method != "memory" else 0.0,  # rows are normalised one by one
        bf16=compute_dtype() is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the watcher must see such a loss
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def _touched(optimizer: SparseRowOptimizer, model: Any) -> int:
    width = next(iter(model.memories.values())).values.shape[1]
    return sum(optimizer.touched_rows().values()) * width


class _Watcher(TrainerCallback):
    """Writes the loss of every step, shows progress, and stops a run whose loss is not finite."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.progress = progress
        self.losses: list[float] = []
        path.unlink(missing_ok=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.losses.append(logs["loss"])
        line = {"step": state.global_step, "loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if not math.isfinite(logs["loss"]):
            raise ValueError(f"the loss is {logs['loss']} at step {state.global_step}: lower the learning rate")
        self.progress(state.global_step, state.max_steps, "steps")

    def recent_loss(self) -> float:
        """Mean loss of the last ten steps."""
        last = self.losses[-10:]
        return sum(last) / len(last)
