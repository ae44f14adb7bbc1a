"""Time and memory of one training step: sparse memory against LoRA, and against a dense, masked table.

    python tests/benchmarks/step_time.py [--quick] [--model FOLDER_OR_ID] [--tokens 512]

`memory` is the default, five tables of 16,384 slots. Beside it stands one table that the same five layers read, of
16,384 and of 1,048,576 slots. Keys are at random, as which slots are read does not change the work, and the number
format is that of a training on this machine. `dense_masked` is
the straightforward version: autograd's gradient of the whole table, all but the top t rows set to zero, AdamW.
Every round takes one step of each variant in turn; the median over the rounds counts. Peak memory is measured
in a fresh process per variant. The floor is the bytes of the rows that a step must read and write, at the
memory bandwidth measured here.
The last line of standard output is one JSON object.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from active_reading.flows.models import resolve_model
from active_reading.flows.settings import DEFAULT_MODEL
from active_reading.train.adapter import MemoryAdapter, attach_memory
from active_reading.train.load import load_model
from active_reading.train.natural_gradient import curvature
from active_reading.train.precision import autocast, compute_dtype, keep_frozen_in_bf16
from active_reading.train.settings import MemorySettings
from active_reading.train.sparse_optimizer import NaturalRowOptimizer

TOP_T = MemorySettings().top_t
VARIANTS = ("lora", "memory", "memory_16k", "memory_1m", "dense_masked_1m")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    arguments = _arguments()
    transformers.utils.logging.disable_progress_bar()
    if arguments.peak:
        step = build(arguments.peak, arguments.model, arguments.tokens)
        step()
        step()
        print(peak_gb())
        return
    rounds = 5 if arguments.quick else 20
    # Before the variants stand here side by side: there may be no room for one more.
    peak = {name: measured_peak(name, arguments) for name in VARIANTS}
    steps = {name: build(name, arguments.model, arguments.tokens) for name in VARIANTS}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
        print(
            f"round {turn} of {rounds}", *(f"{name} {s[-1]:.2f} s" for name, s in seconds.items() if s), flush=True
        )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    update = table_seconds(steps["memory_1m"])
    floor = floor_seconds()
    result = {
        "smf_over_lora": round(median["memory"] / median["lora"], 3),
        "slots_1m_over_16k": round(median["memory_1m"] / median["memory_16k"], 3),
        "over_dense_masked": round(median["dense_masked_1m"] / median["memory_1m"], 2),
        "seconds": {name: round(value, 3) for name, value in median.items()},
        "spread": {name: [round(min(s), 3), round(max(s), 3)] for name, s in seconds.items()},
        "peak_gb": peak,
        "row_update_seconds": round(update, 4),
        "row_update_floor_seconds": round(floor, 4),
        "tokens_per_step": arguments.tokens,
        "rounds": rounds,
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "format": str(compute_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


def build(name: str, model_name: str, tokens: int) -> Callable[[], None]:
    """A function that takes one training step of the variant."""
    torch.manual_seed(0)
    model = load_model(resolve_model(model_name).folder).train()
    model.to(DEVICE)
    ids = torch.randint(0, model.config.vocab_size, (tokens // 64, 64), device=DEVICE)
    if name == "lora":
        optimizer: Any = _lora(model)
        keep_frozen_in_bf16(model)
    else:
        model.requires_grad_(False)
        keep_frozen_in_bf16(model)
        num_keys = 1024 if name.endswith("_1m") else 128
        settings = MemorySettings(num_keys=num_keys, shared_values=name != "memory")
        adapter = attach_memory(model, settings)
        _random_keys(adapter)
        optimizer = DenseMasked(adapter) if name == "dense_masked_1m" else _natural(model, adapter, ids)

    def step() -> None:
        forward_and_backward(model, ids)
        optimizer.step()
        optimizer.zero_grad()
        _wait()

    step.optimizer = optimizer  # type: ignore[attr-defined]
    step.model, step.ids = model, ids  # type: ignore[attr-defined]
    return step


def forward_and_backward(model: Any, ids: torch.Tensor) -> None:
    with autocast(ids.device):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()


class DenseMasked:
    """The table as an ordinary parameter: dense gradient, mask, AdamW."""

    def __init__(self, adapter: MemoryAdapter) -> None:
        (table,) = adapter.tables.values()
        table.learning = False
        self.values = torch.nn.Parameter(table.values.detach())
        table.values = self.values
        self.optimizer = torch.optim.AdamW([self.values], lr=1e-3)
        self.counts = torch.zeros(len(self.values), device=self.values.device)
        for memory in adapter.memories.values():
            memory.forward = self._reader(memory)  # type: ignore[method-assign]

    def _reader(self, memory: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            slots, weights = memory.lookup(x.reshape(-1, x.shape[-1]).float())
            self.counts += torch.bincount(slots.flatten(), minlength=len(self.counts))
            return F.embedding_bag(slots, self.values, mode="sum", per_sample_weights=weights).view_as(x)

        return forward

    def step(self) -> None:
        mask = torch.zeros_like(self.counts)
        mask[self.counts.topk(TOP_T).indices] = 1
        assert self.values.grad is not None
        self.values.grad *= mask[:, None]
        self.optimizer.step()
        self.counts.zero_()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def _lora(model: Any) -> torch.optim.Optimizer:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)  # changes `model` in place
    return torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)


def _natural(model: Any, adapter: MemoryAdapter, ids: torch.Tensor) -> NaturalRowOptimizer:
    """As in a training, on rows and costs from the one batch: which ones they are does not change the work."""
    forward_and_backward(model, ids)
    costs = {}
    for name, table in adapter.tables.items():
        background = adapter.backgrounds[name]
        for read in table.reads:
            background.add_reads(read.slots, read.weights)
        gradients = torch.cat([read.output_gradient.float() for read in table.reads])
        rows = table.access_counts()[0][:TOP_T]
        table.reads.clear()
        background.gradients = gradients.T @ gradients
        costs[name] = curvature(background, rows, adapter.settings.num_heads, adapter.settings.damping)
    return NaturalRowOptimizer(adapter.tables, adapter.backgrounds, adapter.settings, 0.01, costs)


def _random_keys(adapter: MemoryAdapter) -> None:
    width = next(iter(adapter.memories.values())).query_weight.shape[0]
    for memory in adapter.memories.values():
        memory.query_weight.copy_(torch.randn_like(memory.query_weight) / width**0.5)
        memory.keys.copy_(torch.randn_like(memory.keys))


def table_seconds(step: Any) -> float:
    """Seconds of choosing rows and moving them, without the model."""
    times = []
    for _ in range(3):
        forward_and_backward(step.model, step.ids)
        _wait()
        began = time.perf_counter()
        step.optimizer.step()
        _wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def floor_seconds() -> float:
    """Time to read the rows' gradients and to read and write the rows, at the bandwidth of a large copy."""
    source = torch.empty(2**26, device=DEVICE)
    source.clone()
    _wait()
    began = time.perf_counter()
    source.clone()
    _wait()
    bandwidth = 2 * source.nbytes / (time.perf_counter() - began)
    return 3 * TOP_T * 576 * 4 / bandwidth


def _wait() -> None:
    """Until a GPU has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def measured_peak(name: str, arguments: argparse.Namespace) -> float:
    command = [
        sys.executable,
        __file__,
        "--peak",
        name,
        "--model",
        arguments.model,
        "--tokens",
        str(arguments.tokens),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def peak_gb() -> float:
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 20")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
