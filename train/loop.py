"""The training loop: that of `transformers`, on batches planned beforehand, with our objective."""

import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from active_reading.train import precision
from active_reading.train.adapter import MemoryAdapter
from active_reading.train.batches import Batch, collate
from active_reading.train.objectives import base_logits_of, kl_to_base, next_token_loss
from active_reading.train.settings import Method, TrainSettings
from active_reading.train.student import Student, fsdp_is_asked_for

Progress = Callable[[int, int, str], None]
CHECKPOINT_WEIGHTS = "trained.safetensors"
READ = ("input_ids", "attention_mask", "position_ids")  # of a batch, by any model: padded or packed


class NotFinite(Exception):
    """The loss is NaN or infinite."""


class Loop(Trainer):
    """The `transformers` loop on batches that are planned beforehand, with our objective.

    Raises ValueError where FSDP is asked for and `accelerate` has none, or the old one.
    """

    loss_is_scaled_for_ga = True  # there is no gradient accumulation: a batch is a step

    def __init__(
        self, student: Student, batches: list[Batch], settings: TrainSettings, folder: Path, callbacks: list[Any]
    ) -> None:
        super().__init__(
            model=student.model,
            args=_arguments(settings, student.method, len(batches), folder),
            train_dataset=cast(Any, batches),
            callbacks=callbacks,
            optimizers=(student.optimizer, None),
        )
        self._check_fsdp()
        self.remove_callback(PrinterCallback)
        self.batches, self.method, self.kl_weight = batches, student.method, settings.kl_weight
        self.packing = settings.packing
        self.pad_token_id = student.tokenizer.pad_token_id
        self.base_logits = base_logits_of(student.model, student.method) if self.kl_weight else None
        # No weight of a memory run has a gradient for data parallelism to average: the optimizer does that.
        if self.method == "memory":
            whole = partial(self.accelerator.prepare_model, evaluation_mode=True)
            self.accelerator.prepare_model = whole

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every process reads every batch, and takes its own share of the sequences."""
        rank, num_ranks = self.args.process_index, self.args.world_size
        return DataLoader(
            cast(Any, self.batches),
            batch_size=1,
            collate_fn=lambda items: collate(items[0], self.pad_token_id, rank, num_ranks, self.packing),
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """The objective of the whole batch; a process's share is scaled up, as gradients are averaged."""
        labels, num_targets = inputs["labels"], inputs["num_targets"]
        read = {name: inputs[name] for name in READ if name in inputs}
        mask = {"memory_mask": inputs["memory_mask"]} if self.method == "memory" else {}
        logits = model(**read, **mask, use_cache=False).logits
        loss = next_token_loss(logits, labels, num_targets)
        if self.base_logits:
            base = self.base_logits(**read)
            loss = loss + self.kl_weight * kl_to_base(logits, base, labels, num_targets)
        # Of the whole batch, so that every process stops: one that went on would wait for the others for ever.
        whole = self.accelerator.reduce(loss.detach(), "sum").item()
        if not math.isfinite(whole):
            batch = self.batches[self.state.global_step]
            raise NotFinite(f"the loss is {whole} at step {self.state.global_step + 1} ({len(batch.new)} texts)")
        return loss * self.args.world_size

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Under FSDP the trained weights, gathered on the first process; None where every process has them.

        Every process has to ask for them.
        """
        if not self.is_fsdp_enabled:
            return None
        model: Any = self.model
        adapter = self.method == "lora"
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter)
        gathered: dict[str, Any] = get_model_state_dict(model, options=options)
        # Weights that are tied come under each of their names, and are saved under one.
        names = (
            self._moving() if adapter else [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
        )
        return {name: gathered[name] for name in names if name in gathered}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Under FSDP nothing: the weights are saved with the optimizer's state, and gathering them is dear."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint holds what moves, exactly; the rest comes from the base again."""
        folder = Path(output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.contiguous() for name, tensor in self._moving().items()}, folder / CHECKPOINT_WEIGHTS
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            for module in cast(Any, self.model).modules():
                if isinstance(module, FSDPModule):
                    module.reshard()  # a forward pass whose loss is not finite leaves some of the weights gathered
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = load_file(Path(resume_from_checkpoint) / CHECKPOINT_WEIGHTS)
        with torch.no_grad():
            for name, tensor in self._moving().items():
                tensor.copy_(saved[name])

    def _check_fsdp(self) -> None:
        if fsdp_is_asked_for() and not self.is_fsdp_enabled:
            raise ValueError("FSDP is asked for, and `accelerate` has it only for several processes on GPUs")
        if self.is_fsdp_enabled and self.accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise ValueError("fsdp_version: 1 is not supported: use docs/accelerate_fsdp.yaml, which sets 2")

    def _moving(self) -> dict[str, Tensor]:
        model: Any = self.model
        if self.method == "memory":
            adapter: MemoryAdapter = model.memory_adapter
            return {name: table.values.detach() for name, table in adapter.tables.items()}
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


class AfterStep(TrainerCallback):
    """Calls `on_step(step, model)`."""

    def __init__(self, on_step: Callable[[int, Any], None], model: Any) -> None:
        self.on_step, self.trained = on_step, model

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with precision.autocast(args.device):  # what a model calls beside its own forward pass needs it, too
            self.on_step(state.global_step, self.trained)


class Watcher(TrainerCallback):
    """Writes the loss of every step and shows progress."""

    def __init__(self, path: Path, progress: Progress, checkpoint: Path | None) -> None:
        self.path = path
        self.progress = progress
        # From the checkpoint, which no process writes to any more: the first one is about to rewrite `path`.
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")) if checkpoint else {}
        done = [_metrics(log["step"], log) for log in state.get("log_history", []) if "loss" in log]
        self.losses: list[float] = [line["loss"] for line in done]
        if int(os.environ.get("RANK", "0")) == 0:
            path.write_text("".join(f"{json.dumps(line)}\n" for line in done), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.losses.append(logs["loss"])
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_metrics(state.global_step, logs)) + "\n")
        self.progress(state.global_step, state.max_steps, "steps")

    def recent_loss(self) -> float:
        """Mean loss of the last ten steps."""
        last = self.losses[-10:]
        return sum(last) / len(last)


def _metrics(step: int, logs: dict[str, Any]) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    return {"step": step, "loss": logs["loss"], "learning_rate": logs.get("learning_rate")}


def _arguments(settings: TrainSettings, method: Method, num_steps: int, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,  # an item of the data set is a whole batch
        max_steps=num_steps,
        learning_rate=getattr(settings.learning_rates, method),
        warmup_steps=round(settings.warmup_share * num_steps),
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0 if method != "memory" else 0.0,  # rows are normalised one by one
        bf16=precision.compute_dtype() is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        # The Trainer saves after the last step too, which a training of fewer steps than these does not need.
        save_strategy="steps" if 0 < settings.checkpoint_steps < num_steps else "no",
        save_steps=settings.checkpoint_steps or 1,
        save_total_limit=2,  # the last one may turn out to be bad at the next step
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
