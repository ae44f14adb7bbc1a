"""The files of a memory adapter, without a model: `memory_config.json` and `memory.safetensors`.

Tensors: `{layer}.query_mean`, `{layer}.query_weight`, `{layer}.keys`; per table (a layer's name, or
`shared`) `{table}.rows` (t,) ascending, `{table}.values` (t, D) of the rows that are not zero,
`{table}.background_counts` (N,), `{table}.background_batches` (), how many batches they count,
`{table}.background_reads` (M, 2R or 3R, see `pack_reads`), in ascending order, and `{table}.background_gradients`
(D, D), or (0, 0) where no natural gradient was asked for. A patch changes tensors alone: one file, replaced whole.
D model width, N slots, M tokens of generic text, R reads of each.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG_NAME = "memory_config.json"
WEIGHTS_NAME = "memory.safetensors"
VERSION = 5  # of adapters and their patches; goes up when the same files would be read otherwise
CONFIG_KEYS = ("base_model", "base_hash", "memory")
SMALL_TABLE = 2**16  # the most slots whose numbers fit into 16 bits
KEY_TENSORS = ("query_mean", "query_weight", "keys")
TABLE_TENSORS = (
    "rows",
    "values",
    "background_counts",
    "background_batches",
    "background_reads",
    "background_gradients",
)


@dataclass
class AdapterFiles:
    """`config`: `version`, `base_model`, `base_hash`, `memory` (the settings)."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def tables(self) -> list[str]:
        memory = self.config["memory"]
        return ["shared"] if memory.get("shared_values") else self.layers

    @property
    def layers(self) -> list[str]:
        return [str(layer) for layer in self.config["memory"]["layers"]]

    def batches(self, table: str) -> int:
        """How many batches the table's background counts are of."""
        return int(self.tensors[f"{table}.background_batches"])

    def keys_hash(self) -> str:
        """Hash of what decides which slot a hidden state reads: two adapters that share it share their slots."""
        shape = [self.config["memory"].get(name) for name in ("shared_values", "top_k")]
        digest = hashlib.blake2b(json.dumps([self.config["version"], *shape]).encode(), digest_size=16)
        for name in sorted(name for name in self.tensors if name.endswith(KEY_TENSORS)):
            digest.update(name.encode())
            digest.update(self.tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def rows(self, table: str, rows: Tensor) -> Tensor:
        """(t, D) values of the given rows (t,), zero where they never moved."""
        known, values = self.tensors[f"{table}.rows"], self.tensors[f"{table}.values"]
        result = torch.zeros(len(rows), values.shape[1])
        place = torch.searchsorted(known, rows).clamp_max(max(len(known) - 1, 0))
        if len(known):
            found = known[place] == rows
            result[found] = values[place[found]].float()
        return result

    def set_rows(self, table: str, rows: Tensor, values: Tensor) -> None:
        """Replace rows (t,) by `values` (t, D); rows of zero are left out of the file."""
        known, old = self.tensors[f"{table}.rows"], self.tensors[f"{table}.values"]
        kept = ~torch.isin(known, rows)
        all_rows, all_values = torch.cat([known[kept], rows]), torch.cat([old[kept].float(), values.float()])
        order = all_rows.argsort()
        order = order[all_values[order].any(1)]
        self.tensors[f"{table}.rows"] = all_rows[order]
        self.tensors[f"{table}.values"] = all_values[order].to(old.dtype)


def pack_reads(slots: Tensor, weights: Tensor, num_slots: int) -> Tensor:
    """One row of bits for each token's reads, of slots (M, R) int32 and weights (M, R) bfloat16.

    (M, 2R) int16 where the table is small, else (M, 3R).
    """
    bits = (slots - SMALL_TABLE // 2).short() if num_slots <= SMALL_TABLE else slots.view(torch.int16)
    return together(torch.cat([bits, weights.view(torch.int16)], dim=1))


def unpack_reads(reads: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Slots and weights, both (M, R), of a table that has `num_slots`."""
    if not len(reads):
        return torch.zeros(0, 0, dtype=torch.int32), torch.zeros(0, 0, dtype=torch.bfloat16)
    small = num_slots <= SMALL_TABLE
    width = reads.shape[1] // (2 if small else 3)
    slots, weights = reads[:, :-width].contiguous(), reads[:, -width:].contiguous()
    return slots.int() + SMALL_TABLE // 2 if small else slots.view(torch.int32), weights.view(torch.bfloat16)


def together(*parts: Tensor) -> Tensor:
    """All rows of the parts (each (M, W), or empty) in ascending order: the same whatever came first."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return parts[0]
    rows, counts = torch.cat(filled).unique(dim=0, return_counts=True)
    return rows.repeat_interleave(counts, dim=0)


def without(rows: Tensor, taken: Tensor) -> Tensor:
    """The rows (M, W) but for those taken (K, W), each as often as it is there; ascending."""
    if not len(rows) or not len(taken):
        return rows
    distinct, place = torch.cat([rows, taken]).unique(dim=0, return_inverse=True)
    kept, gone = (part.bincount(minlength=len(distinct)) for part in place.split([len(rows), len(taken)]))
    return distinct.repeat_interleave((kept - gone).clamp_min(0), dim=0)


def write_adapter(files: AdapterFiles, folder: Path) -> None:
    """Write both files, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file({name: tensor.cpu().contiguous() for name, tensor in sorted(files.tensors.items())}, partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    partial = folder / f"{CONFIG_NAME}.partial"
    partial.write_text(json.dumps(files.config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / CONFIG_NAME)


def read_adapter(folder: Path) -> AdapterFiles:
    """Read both files.

    Raises ValueError naming a file that is missing or damaged.
    """
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{folder} is no memory adapter: it has no {CONFIG_NAME}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): make it again") from None
    if lacking := [key for key in CONFIG_KEYS if key not in config]:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(lacking)}")
    if config.get("version") != VERSION:
        raise ValueError(f"{path} is of another version: train it again")
    files = AdapterFiles(config, read_tensors(folder / WEIGHTS_NAME))
    needed = [f"{table}.{kind}" for table in files.tables for kind in TABLE_TENSORS]
    needed += [f"{layer}.{kind}" for layer in files.layers for kind in KEY_TENSORS]
    if lacking := [name for name in needed if name not in files.tensors]:
        path = folder / WEIGHTS_NAME
        raise ValueError(f"{path} is damaged or of an older version: it lacks {', '.join(lacking)}; make it again")
    return files


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError when it is missing or damaged."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): make it again") from None
