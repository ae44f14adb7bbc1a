"""The files of an adapter: rows are got and set as in the whole table, and damage is named."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from active_reading.train.adapter_files import VERSION, AdapterFiles, read_adapter, read_tensors, write_adapter

SLOTS, WIDTH = 12, 4


def files_of(table: Tensor) -> AdapterFiles:
    """The files of a memory whose only table, named 1, holds `table` (N, D)."""
    generator = torch.Generator().manual_seed(0)
    rows = table.any(1).nonzero().flatten()
    tensors = {
        "1.query_mean": torch.randn(WIDTH, generator=generator),
        "1.query_weight": torch.randn(WIDTH, 8, generator=generator),
        "1.keys": torch.randn(1, 2, 3, 4, generator=generator),
        "1.rows": rows,
        "1.values": table[rows].bfloat16(),
        "1.background_counts": torch.arange(float(SLOTS)),
        "1.background_batches": torch.tensor(5),
        "1.background_reads": torch.arange(12, dtype=torch.int16).view(4, 3),
        "1.background_gradients": torch.eye(WIDTH),
    }
    config = {
        "version": VERSION,
        "base_model": "b",
        "base_hash": "h",
        "memory": {"layers": [1]},
    }
    return AdapterFiles(config, tensors)


def table_of(rows: dict[int, list[float]]) -> Tensor:
    table = torch.zeros(SLOTS, WIDTH)
    for row, values in rows.items():
        table[row] = torch.tensor(values)
    return table


# Numbers that bf16 holds exactly, and rows of zeros among the others.
VALUES = st.lists(st.sampled_from([0.0, 0.0, 1.5, -2.0]), min_size=WIDTH, max_size=WIDTH)
ROWS = st.dictionaries(st.integers(0, SLOTS - 1), VALUES)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.lists(st.integers(0, SLOTS - 1)))
def test_rows_are_those_of_the_whole_table(rows, wanted):
    table, wanted = table_of(rows), torch.tensor(wanted).long()
    assert torch.equal(files_of(table).rows("1", wanted), table[wanted])


@settings(max_examples=150, deadline=None)
@given(ROWS, ROWS, st.randoms())
def test_rows_that_are_set_replace_those_of_the_whole_table_and_no_others(old, new, shuffler):
    table, files = table_of(old), files_of(table_of(old))
    order = sorted(new)
    shuffler.shuffle(order)
    values = torch.tensor([new[row] for row in order]).view(-1, WIDTH)
    files.set_rows("1", torch.tensor(order).long(), values)
    table[order] = values
    # The file is as if it had been made of the changed table: rows ascending, none of zeros.
    fresh = files_of(table)
    assert files.tensors.keys() == fresh.tensors.keys()
    for name, tensor in fresh.tensors.items():
        assert torch.equal(files.tensors[name], tensor), name
        assert files.tensors[name].dtype is tensor.dtype, name


def test_files_that_are_written_are_read_as_they_were(tmp_path):
    files = files_of(table_of({3: [1, 2, 3, 4]}))
    write_adapter(files, tmp_path / "new")
    again = read_adapter(tmp_path / "new")
    assert again.config == files.config
    assert again.tables == ["1"]
    assert again.tensors.keys() == files.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in files.tensors.items())
    assert len(list((tmp_path / "new").iterdir())) == 2, "nothing else is left there"


def test_the_same_files_are_written_byte_for_byte_in_any_order_of_tensors(tmp_path):
    files = files_of(table_of({3: [1, 2, 3, 4], 7: [0, 0, 1, 0]}))
    write_adapter(files, tmp_path / "one")
    write_adapter(AdapterFiles(files.config, dict(reversed(files.tensors.items()))), tmp_path / "two")
    for name in ("memory.safetensors", "memory_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_hash_of_the_keys_changes_with_them_and_with_nothing_else():
    plain, learned = files_of(table_of({})), files_of(table_of({2: [1, 1, 1, 1]}))
    assert plain.keys_hash() == learned.keys_hash()
    for name in ("1.query_mean", "1.query_weight", "1.keys"):
        other = files_of(table_of({}))
        other.tensors[name].view(-1)[-1] += 1e-6
        assert other.keys_hash() != plain.keys_hash(), name


@pytest.mark.parametrize("version", [None, VERSION + 1])
def test_adapters_of_another_version_are_refused(tmp_path, version):
    """They hold something else in the same tensors."""
    files = files_of(table_of({3: [1, 2, 3, 4]}))
    here = files.keys_hash()
    files.config = {name: part for name, part in files.config.items() if name != "version"}
    files.config |= {"version": version} if version else {}
    write_adapter(files, tmp_path)
    with pytest.raises(ValueError, match="memory_config.json is of another version.*train it again"):
        read_adapter(tmp_path)
    if version:
        assert files.keys_hash() != here, "its patches are refused, too"


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path.name} is no memory adapter: it has no memory_config.json"):
        read_adapter(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(files_of(table_of({3: [1, 2, 3, 4]})), tmp_path)
    return tmp_path


def test_weights_that_are_missing_are_named(folder):
    (folder / "memory.safetensors").unlink()
    with pytest.raises(ValueError, match="memory.safetensors does not exist"):
        read_adapter(folder)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_weights_that_are_cut_short_are_named(folder, share):
    path = folder / "memory.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="memory.safetensors is damaged or cut short"):
        read_adapter(folder)


def test_weights_that_are_something_else_are_named(tmp_path):
    path = tmp_path / "memory.safetensors"
    path.write_bytes(b"<!DOCTYPE html>" * 20)
    with pytest.raises(ValueError, match="memory.safetensors is damaged or cut short"):
        read_tensors(path)


@pytest.mark.parametrize("text", ["", '{"base_model": "b", "base_ha', "[1, 2]"])
def test_a_configuration_that_is_damaged_is_named(folder, text):
    (folder / "memory_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="memory_config.json is damaged"):
        read_adapter(folder)


def test_a_configuration_that_lacks_something_is_named_with_it(folder):
    path = folder / "memory_config.json"
    config = json.loads(path.read_text())
    del config["base_hash"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="memory_config.json is damaged: it lacks base_hash"):
        read_adapter(folder)
