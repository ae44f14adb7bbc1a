"""The student: a model made ready for one method of training, and how what it learned is saved."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from active_reading.train.adapter import STORED, MemoryAdapter, memory_files
from active_reading.train.adapter_files import AdapterFiles, write_adapter
from active_reading.train.batches import Sequence
from active_reading.train.load import base_of, load_model
from active_reading.train.natural_gradient import Reads
from active_reading.train.patch import difference, write_patch
from active_reading.train.precision import keep_frozen_in_bf16
from active_reading.train.prepared import KEPT, fresh_memory
from active_reading.train.row_optimizer import row_optimizer
from active_reading.train.settings import LoraSettings, Method, TrainSettings
from active_reading.train.slots import usage
from active_reading.train.sparse_optimizer import SparseRowOptimizer
from active_reading.train.warming import warm_memory

PATCH_NAME = "patch.safetensors"


@dataclass
class Student:
    """`optimizer` is None where the training loop makes its own (AdamW)."""

    model: Any
    tokenizer: Any
    base_model: str
    method: Method
    trainable: int
    optimizer: SparseRowOptimizer | None = None
    slot_usage: dict[str, dict[str, float]] = field(default_factory=dict)
    start: AdapterFiles | None = None  # the memory before training, warmed if that is asked for
    learned_reads: dict[str, Reads] = field(default_factory=dict)  # by table, of some of the new tokens

    def finish(self, num_steps: int, protect: float) -> None:
        """Round a memory to what is stored; rows that moved count as known from now on, unless `protect` is 0.

        A token that was learned counts `protect` times as much as one of the background.
        """
        if not self.optimizer:
            return
        for name, table in self.optimizer.tables.items():
            table.values.copy_(table.values.to(STORED))
            if protect:
                background = self.optimizer.backgrounds[name]
                background.counts += self.optimizer.state[table.values]["row_steps"].to(background.counts)
                background.num_batches += num_steps
                if name in self.learned_reads:
                    slots, weights = self.learned_reads[name]
                    background.add_reads(slots, weights * protect**0.5)  # their products count

    def touched(self) -> int:
        """How many parameters have moved."""
        if not self.optimizer:
            return self.trainable
        rows = self.optimizer.touched_rows()
        return sum(len(rows[name]) * table.values.shape[1] for name, table in self.optimizer.tables.items())

    def save(self, folder: Path, provenance: str, weights: dict[str, Tensor] | None = None) -> None:
        """Write what `load.load_model` opens; beside a memory, the patch that leads to it.

        `weights` are the trained ones by name, where the model itself holds only a share of them.
        """
        if self.start:
            files = memory_files(self.model, str(base_of(self.base_model)))
            write_adapter(files, folder)
            write_patch(difference(self.start, files, provenance), folder / PATCH_NAME)
        else:
            # As they learned, in fp32: in bf16 a small change of a large weight would be lost.
            self.model.save_pretrained(folder, state_dict=weights)
            if self.method == "full":
                self.tokenizer.save_pretrained(folder)


def make_student(
    base_model: str,
    method: Method,
    settings: TrainSettings,
    tokenizer: Any,
    sequences: list[Sequence],
    memories: Path | None = None,
) -> Student:
    """Load a model, or what the same method made of one, and prepare it; see `prepared` for `memories`.

    Raises ValueError for a folder that another method made, a model that memory does not fit, texts longer
    than the model's context, packing for a model that does not keep packed texts apart, and what FSDP cannot
    train.
    """
    _check_fsdp(method, settings)
    model = load_model(base_model)
    _check_context(model, settings)
    _check_method(model, base_model, method)
    if settings.packing:
        check_packing(model)
    if method == "lora":
        model = _add_lora(model, settings.lora)
    elif method == "memory":
        model.requires_grad_(False)
        keep_frozen_in_bf16(model)
    if torch.cuda.is_available() and not fsdp_is_asked_for():
        # Before the Trainer would: the background pass runs there too. FSDP takes its shares from the CPU.
        model = model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    if method == "memory":
        adapter = _fit_memory(model, base_model, tokenizer, settings, memories)
        optimizer, learned_reads = row_optimizer(model, adapter, tokenizer, settings, sequences)
        return Student(
            model,
            tokenizer,
            base_model,
            method,
            sum(table.values.numel() for table in adapter.tables.values()),
            optimizer,
            {name: usage(background) for name, background in adapter.backgrounds.items()},
            memory_files(model, str(base_of(base_model))),
            learned_reads,
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Student(model, tokenizer, base_model, method, trainable)


def fsdp_is_asked_for() -> bool:
    """Whether `accelerate launch` was told to share out the model's weights among the processes."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _check_fsdp(method: Method, settings: TrainSettings) -> None:
    if not fsdp_is_asked_for():
        return
    if method == "memory":
        raise ValueError(
            "train.methods has memory, which does not train under FSDP: its base has no gradients to share out, "
            "and every process runs the whole of it for keys and counts. Launch it without FSDP"
        )
    if method == "full" and settings.kl_weight:
        raise ValueError(
            f"train.kl_weight={settings.kl_weight} with full finetuning keeps a whole second model in each "
            "process, which FSDP is there to avoid: set it to 0, or train lora"
        )


def _check_context(model: Any, settings: TrainSettings) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and settings.max_length > context:
        raise ValueError(f"train.max_length={settings.max_length} exceeds the model's context of {context} tokens")


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Raises ValueError for a model in which a text has other logits behind another in a packed row than alone.

    So it is where positions, attention or a recurrent state run on from text to text.
    """
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.linspace(0, vocabulary - 1, 24, device=model.device).long()[None]
    places = torch.cat([torch.arange(16), torch.arange(8)]).to(ids)[None]
    alone = model(input_ids=ids[:, 16:], use_cache=False).logits
    packed = model(input_ids=ids, position_ids=places, use_cache=False).logits[:, 16:]
    # Rounding is about 1e-6 of the logits. A convolution that runs on reaches a few tokens only, hence no mean.
    if not (packed - alone).abs().max() <= 1e-4 * alone.abs().max():
        raise ValueError(f"train.packing: {type(model).__name__} does not keep packed texts apart: turn it off")


def _check_method(model: Any, base_model: str, method: Method) -> None:
    made_by = "memory" if hasattr(model, "memory_adapter") else "lora" if hasattr(model, "peft_config") else None
    if made_by not in (None, method):
        raise ValueError(f"{base_model} was made by {made_by}: train it on with that method, not with {method}")


def _fit_memory(
    model: Any, base_model: str, tokenizer: Any, settings: TrainSettings, memories: Path | None
) -> MemoryAdapter:
    """The memories that the model brings, or fresh ones, warmed if that is asked for."""
    if adapter := cast(MemoryAdapter | None, getattr(model, "memory_adapter", None)):
        for name in KEPT:
            asked, found = getattr(settings.memory, name), getattr(adapter.settings, name)
            if asked is not None and asked != found:
                raise ValueError(f"train.memory.{name}={asked}: the memory that is trained on has {found}")
        return adapter
    adapter = fresh_memory(model, base_model, tokenizer, settings, memories)
    if settings.memory.warm_tokens:
        warm_memory(model, adapter, tokenizer, settings)
    return adapter


def _add_lora(model: Any, settings: LoraSettings) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        return model
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    # An adapter that is trained on may be another program's, and save frozen layers, too. Not tried under FSDP.
    if not fsdp_is_asked_for():
        keep_frozen_in_bf16(model)
    return model
