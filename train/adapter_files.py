"""The files of a memory adapter, without a model: `memory_config.json` and `memory.safetensors`.

Tensors: `{layer}.query_mean`, `{layer}.query_weight`, `{layer}.keys`; per table (a layer's name, or
`shared`) `{table}.rows` (R,) ascending, `{table}.values` (R, D) of the rows that are not zero, and
`{table}.background_counts` (N,). D model width, N slots.
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
CONFIG_KEYS = ("base_model", "base_hash", "background_batches", "memory")
KEY_TENSORS = ("query_mean", "query_weight", "keys")


@dataclass
class AdapterFiles:
    """`config` has `base_model`, `base_hash`, `background_batches` (per table) and `memory` (the settings)."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def tables(self) -> list[str]:
        return list(self.config["background_batches"])

    def keys_hash(self) -> str:
        """Hash of what decides which slot a hidden state reads: two adapters that share it share their slots."""
        digest = hashlib.blake2b(digest_size=16)
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
    return AdapterFiles(config, read_tensors(folder / WEIGHTS_NAME))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError when it is missing or damaged."""
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short ({error}): make it again") from None
