"""Memory patches: what a training run changed in a memory, as one file that is applied and reverted.

A patch is a safetensors file. Per table: `{table}.rows` (t,) ascending, `{table}.before` (t, D; left out
where all rows were zero), `{table}.after` (t, D), `{table}.learned` (t,) what the run added to the rows'
background counts, and `{table}.learned_reads` and `{table}.unlearned_reads` what it added to the background's
reads and took away from them (left out where it did not). Its metadata names the base, the keys, and where the
patch comes from.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from active_reading.train.adapter_files import (
    VERSION,
    AdapterFiles,
    read_adapter,
    read_tensors,
    together,
    without,
    write_adapter,
)

KIND = "active-reading memory patch"
FORMAT = f"{KIND} {VERSION}"  # a patch holds rows and reads as the adapter does


@dataclass
class Patch:
    """`facts` has `base_model`, `base_hash`, `keys_hash`, `batches` (steps learned) and `provenance`."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def tables(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self.tensors})

    def before(self, table: str) -> Tensor:
        """(t, D) the rows' values before the training."""
        after = self.tensors[f"{table}.after"]
        return self.tensors.get(f"{table}.before", torch.zeros_like(after))


def create_patch(before: Path, after: Path, path: Path, provenance: str = "") -> None:
    """Write the difference between two adapters on the same base and keys to `path`.

    Raises ValueError when they do not belong together, or nothing differs.
    """
    old, new = read_adapter(before), read_adapter(after)
    _check_same_memory(_facts(old), _facts(new), before, after)
    patch = difference(old, new, provenance)
    if not patch.tensors:
        raise ValueError(f"{before} and {after} hold the same values: there is nothing to make a patch of")
    write_patch(patch, path)


def difference(old: AdapterFiles, new: AdapterFiles, provenance: str) -> Patch:
    """What leads from one state of a memory to another."""
    tensors: dict[str, Tensor] = {}
    for table in new.tables:
        counts = f"{table}.background_counts"
        learned = new.tensors[counts] - old.tensors[counts]
        moved = [files.tensors[f"{table}.rows"] for files in (old, new)]
        rows = torch.cat([*moved, learned.nonzero().flatten()]).unique()
        was, now = old.rows(table, rows), new.rows(table, rows)
        changed = (was != now).any(1) | (learned[rows] != 0)
        reads = [files.tensors[f"{table}.background_reads"] for files in (old, new)]
        if changed.any() or not torch.equal(*reads):
            dtype = new.tensors[f"{table}.values"].dtype
            rows, was, now = rows[changed], was[changed].to(dtype), now[changed].to(dtype)
            tensors |= {f"{table}.rows": rows, f"{table}.after": now, f"{table}.learned": learned[rows]}
            if was.any():
                tensors[f"{table}.before"] = was
        for word, found in (("learned", without(reads[1], reads[0])), ("unlearned", without(reads[0], reads[1]))):
            if len(found):
                tensors[f"{table}.{word}_reads"] = found
    batches = {table: new.batches(table) - old.batches(table) for table in new.tables}
    return Patch(_facts(new) | {"batches": batches, "provenance": provenance}, tensors)


def read_patch(path: Path) -> Patch:
    """Read a patch; ValueError for a file that is missing, cut short, of another version, or something else."""
    tensors = read_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if FORMAT not in metadata:
        if any(name.startswith(KIND) for name in metadata):
            raise ValueError(f"{path} is of another version: train it again")
        raise ValueError(f"{path} is no memory patch")
    return Patch(json.loads(metadata[FORMAT]), tensors)


def write_patch(patch: Patch, path: Path) -> None:
    """Write a patch file, whole or not at all."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file for the patch")
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {FORMAT: json.dumps(patch.facts, sort_keys=True)}  # one entry: several are written in any order
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: tensor.contiguous() for name, tensor in sorted(patch.tensors.items())}, partial, metadata)
    os.replace(partial, path)


def describe_patch(path: Path) -> dict[str, Any]:
    """What a person wants to know of a patch: rows per table, bytes, base, provenance."""
    patch = read_patch(path)
    rows = {table: len(patch.tensors[f"{table}.rows"]) for table in patch.tables}
    return {"rows": rows, "bytes": path.stat().st_size, **patch.facts}


def apply_patch(path: Path, adapter: Path) -> None:
    """Bring the adapter in folder `adapter` to what the patch's training made of it.

    Raises ValueError for another base, other keys, and rows that are not as the patch found them.
    """
    _move(path, adapter, forward=True)


def revert_patch(path: Path, adapter: Path) -> None:
    """Undo `apply_patch`: the adapter's file is byte for byte what it was before.

    Raises ValueError as `apply_patch` does.
    """
    _move(path, adapter, forward=False)


def scale_patch(path: Path, share: float, into: Path) -> None:
    """Write a patch that moves every row a share of the way that the patch at `path` does; see `strength`.

    What it adds to the background is the whole of it: it was learned, if weakly.
    Raises ValueError for a share that is not between 0 and 1 or too small to move a row, and for `into` that is
    the patch itself, by which its training is taken back.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share}: needs one between 0 and 1")
    patch = read_patch(path)
    if into.exists() and into.samefile(path):
        raise ValueError(f"{into} is the patch to be scaled: name another file")
    moved = False
    for table in patch.tables:
        before, after = patch.before(table), patch.tensors[f"{table}.after"]
        scaled = before.float().lerp(after.float(), share).to(after)
        patch.tensors[f"{table}.after"] = scaled
        moved |= not torch.equal(before, scaled)
    if not moved:
        raise ValueError(f"a share of {share} of {path} moves no row: needs a larger one")
    facts = patch.facts | {"provenance": f"{share} of ({patch.facts['provenance']})"}
    write_patch(Patch(facts, patch.tensors), into)


def merge_patches(paths: list[Path], path: Path) -> None:
    """One patch of several that move different rows; the order does not matter.

    Raises ValueError when they are of another base, or move the same rows.
    """
    patches = [read_patch(each) for each in paths]
    merged = Patch(dict(patches[0].facts), {})
    for other, name in zip(patches[1:], paths[1:], strict=True):
        _check_same_memory(merged.facts, other.facts, paths[0], name)
    for table in sorted({table for patch in patches for table in patch.tables}):
        parts = [patch for patch in patches if table in patch.tables]
        rows, order = torch.cat([patch.tensors[f"{table}.rows"] for patch in parts]).sort()
        if len(both := rows[1:][rows[1:] == rows[:-1]].unique()):
            moving = [str(name) for name, patch in zip(paths, patches, strict=True) if _moves(patch, table, both)]
            raise ValueError(
                f"conflict: {len(both)} rows of table {table} are moved by more than one patch "
                f"({', '.join(moving)}): merge those that move different rows, or train one after the other"
            )
        merged.tensors[f"{table}.rows"] = rows
        for kind in ("after", "learned"):
            merged.tensors[f"{table}.{kind}"] = torch.cat([p.tensors[f"{table}.{kind}"] for p in parts])[order]
        before = torch.cat([patch.before(table) for patch in parts])[order]
        if before.any():
            merged.tensors[f"{table}.before"] = before
        for reads in (f"{table}.learned_reads", f"{table}.unlearned_reads"):
            if found := [part.tensors[reads] for part in parts if reads in part.tensors]:
                merged.tensors[reads] = together(*found)
    merged.facts["batches"] = {
        table: sum(patch.facts["batches"].get(table, 0) for patch in patches) for table in merged.facts["batches"]
    }
    merged.facts["provenance"] = "; ".join(sorted(patch.facts["provenance"] for patch in patches))
    write_patch(merged, path)


def _moves(patch: Patch, table: str, rows: Tensor) -> bool:
    return table in patch.tables and bool(torch.isin(patch.tensors[f"{table}.rows"], rows).any())


def _move(path: Path, adapter: Path, forward: bool) -> None:
    patch, files = read_patch(path), read_adapter(adapter)
    _check_same_memory(_facts(files), patch.facts, adapter, path)
    sign = 1 if forward else -1
    for table in patch.tables:
        rows, after = patch.tensors[f"{table}.rows"], patch.tensors[f"{table}.after"].float()
        start, end = (patch.before(table).float(), after) if forward else (after, patch.before(table).float())
        if differ := int((files.rows(table, rows) != start).any(1).sum()):
            if torch.equal(files.rows(table, rows), end):
                raise ValueError(f"{path} is {'already' if forward else 'not'} applied to {adapter}: nothing to do")
            state = "before it" if forward else "after it"
            raise ValueError(
                f"conflict: {differ} rows of table {table} in {adapter} are not as {path} knows them {state}: "
                "revert what was applied or trained since first"
            )
        files.set_rows(table, rows, end)
        files.tensors[f"{table}.background_counts"][rows] += sign * patch.tensors[f"{table}.learned"]
        reads = files.tensors[f"{table}.background_reads"]
        none = reads[:0]
        learned, unlearned = (patch.tensors.get(f"{table}.{word}_reads", none) for word in ("learned", "unlearned"))
        added, removed = (learned, unlearned) if forward else (unlearned, learned)
        files.tensors[f"{table}.background_reads"] = together(without(reads, removed), added)
    for table, batches in patch.facts["batches"].items():  # tables of which no row moved are among them
        files.tensors[f"{table}.background_batches"] += sign * batches
    write_adapter(files, adapter)


def _facts(files: AdapterFiles) -> dict[str, Any]:
    return {
        "base_model": files.config["base_model"],
        "base_hash": files.config["base_hash"],
        "keys_hash": files.keys_hash(),
    }


def _check_same_memory(one: dict[str, Any], other: dict[str, Any], first: Path, second: Path) -> None:
    if one["base_hash"] != other["base_hash"]:
        raise ValueError(
            f"{first} and {second} have different bases ({one['base_model']}, {other['base_model']}): "
            "a memory fits only the model it was made on"
        )
    if one["keys_hash"] != other["keys_hash"]:
        raise ValueError(
            f"{first} and {second} have different keys, so that their slots mean different things: make both with "
            "one version of active-reading and the same train.memory, background, batch_tokens and max_length"
        )
