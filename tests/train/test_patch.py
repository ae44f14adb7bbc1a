"""Patches: applied they give what was learned, reverted the old files byte for byte; merging has no order."""

from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from active_reading.train.adapter_files import VERSION, AdapterFiles, read_adapter, together, write_adapter
from active_reading.train.patch import (
    apply_patch,
    create_patch,
    describe_patch,
    merge_patches,
    read_patch,
    revert_patch,
    scale_patch,
)

SLOTS, WIDTH = 20, 4
# Reads of generic text and of what is learned: bits that say nothing, some of them twice, in no order.
GENERIC = torch.tensor([[7, 7, 1], [2, 0, 5], [7, 7, 1]])
LEARNED = {steps: torch.tensor([[2, 0, 5], [9, 9, steps], [0, 3, 0]])[:steps] for steps in range(20)}
Learned = dict[str, dict[int, float]]  # by table and row: what every number of the row became


def write(
    folder: Path,
    learned: Learned,
    batches: int = 0,
    base: str = "h",
    keys: float = 0.0,
    trainings: dict[str, list[int]] | None = None,
    top_k: int = 1,
    shared_values: bool = False,
) -> Path:
    """A memory of two tables; each row that has learned was touched in two of `batches` steps.

    The steps of each table's `trainings` say which reads they left; by default one training taught both.
    """
    read_in = {table: [batches] for table in learned} if trainings is None else trainings
    tensors: dict[str, Tensor] = {}
    if shared_values:  # which both layers read
        learned = {"shared": learned.get("0", {})}
    for table in ("0", "2", *learned.keys() - {"0", "2"}):
        rows = torch.tensor(sorted(learned.get(table, {}))).long()
        values = torch.tensor([[learned[table][row]] * WIDTH for row in rows.tolist()]).view(-1, WIDTH)
        counts = torch.arange(float(SLOTS))
        counts[rows] += 2
        tensors |= {
            f"{table}.query_mean": torch.full((WIDTH,), keys),
            f"{table}.query_weight": torch.eye(WIDTH),
            f"{table}.keys": torch.ones(1, 2, 5, 2),
            f"{table}.rows": rows,
            f"{table}.values": values.bfloat16(),
            f"{table}.background_counts": counts,
            f"{table}.background_batches": torch.tensor(7 + batches),
            f"{table}.background_reads": together(GENERIC, *(LEARNED[steps] for steps in read_in.get(table, []))),
            f"{table}.background_gradients": torch.eye(WIDTH),
        }
    config = {
        "version": VERSION,
        "base_model": "m",
        "base_hash": base,
        "memory": {"layers": [0, 2], "top_k": top_k, "shared_values": shared_values},
    }
    write_adapter(AdapterFiles(config, tensors), folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


EMPTY: Learned = {}
FIRST: Learned = {"0": {3: 1.5, 8: -2.0}, "2": {1: 0.5}}
SECOND: Learned = {"0": {3: 4.0, 8: -2.0, 12: 1.0}, "2": {1: 0.5, 19: 3.0}}  # row 3 of table 0 moved on


@pytest.fixture
def states(tmp_path: Path) -> list[Path]:
    learned = enumerate((EMPTY, FIRST, SECOND))
    return [write(tmp_path / f"state{number}", rows, batches=5 * number) for number, rows in learned]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 2), (0, 2), (2, 0)])
def test_a_patch_gives_what_was_learned_and_takes_it_back_byte_for_byte(states, tmp_path, start, end):
    before, after = content(states[start]), content(states[end])
    create_patch(states[start], states[end], tmp_path / "learned.patch")
    assert (content(states[start]), content(states[end])) == (before, after), "both are only read"
    apply_patch(tmp_path / "learned.patch", states[start])
    assert content(states[start]) == after
    revert_patch(tmp_path / "learned.patch", states[start])
    assert content(states[start]) == before


def test_a_patch_holds_only_the_rows_that_changed(states, tmp_path):
    create_patch(states[0], states[1], tmp_path / "first.patch", "chapter one")
    create_patch(states[1], states[2], tmp_path / "second.patch")
    first, second = (read_patch(tmp_path / f"{name}.patch") for name in ("first", "second"))
    assert first.tables == second.tables == ["0", "2"]
    assert first.tensors["0.rows"].tolist() == [3, 8]
    assert first.tensors["0.after"].tolist() == [[1.5] * 4, [-2.0] * 4]
    assert first.tensors["0.learned"].tolist() == [2, 2]
    assert not any(name.endswith("before") for name in first.tensors), "all rows were zero"
    assert first.before("0").tolist() == [[0.0] * 4] * 2
    assert second.tensors["0.rows"].tolist() == [3, 12]
    assert second.tensors["0.before"].tolist() == [[1.5] * 4, [0.0] * 4]
    assert second.tensors["2.rows"].tolist() == [19]
    assert first.facts["provenance"] == "chapter one"
    assert first.facts["batches"] == {"0": 5, "2": 5}


def test_a_scaled_patch_goes_a_share_of_the_way_and_is_reverted_byte_for_byte(states, tmp_path):
    create_patch(states[1], states[2], tmp_path / "second.patch", "chapter two")
    scale_patch(tmp_path / "second.patch", 0.7, tmp_path / "weaker.patch")
    before = content(states[1])
    apply_patch(tmp_path / "weaker.patch", states[1])
    reached, whole = read_adapter(states[1]), read_adapter(states[2])
    expected = torch.tensor([1.5 + 0.7 * (4.0 - 1.5), -2.0, 0.7]).bfloat16()
    assert torch.equal(reached.rows("0", torch.tensor([3, 8, 12]))[:, 0].bfloat16(), expected)
    assert reached.rows("2", torch.tensor([1, 19]))[:, 0].tolist() == pytest.approx([0.5, 2.1], rel=1e-2)
    for name in ("0.background_counts", "2.background_reads"):
        assert torch.equal(reached.tensors[name], whole.tensors[name]), "it was learned, if weakly"
    revert_patch(tmp_path / "weaker.patch", states[1])
    assert content(states[1]) == before
    assert read_patch(tmp_path / "weaker.patch").facts["provenance"] == "0.7 of (chapter two)"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan"), 1e-45])
def test_a_share_that_is_none_is_refused(states, tmp_path, share):
    create_patch(states[0], states[1], tmp_path / "first.patch")
    with pytest.raises(ValueError, match="needs one between 0 and 1|moves no row"):
        scale_patch(tmp_path / "first.patch", share, tmp_path / "weaker.patch")
    assert not (tmp_path / "weaker.patch").exists()


def test_a_patch_counts_the_steps_for_a_table_that_did_not_move(tmp_path):
    before, after = write(tmp_path / "a", EMPTY), write(tmp_path / "b", {"0": {3: 1.0}}, batches=4)
    create_patch(before, after, tmp_path / "p")
    assert read_patch(tmp_path / "p").tables == ["0"]
    expected, old = content(after), content(before)
    apply_patch(tmp_path / "p", before)
    assert content(before) == expected
    revert_patch(tmp_path / "p", before)
    assert content(before) == old


def test_a_patch_is_described_in_a_persons_words(states, tmp_path):
    path = tmp_path / "learned.patch"
    create_patch(states[0], states[1], path, "chapter one")
    found = describe_patch(path)
    assert found.pop("rows") == {"0": 2, "2": 1}
    assert found.pop("bytes") == path.stat().st_size
    assert found.pop("keys_hash") == read_adapter(states[0]).keys_hash()
    facts = {"base_model": "m", "base_hash": "h", "batches": {"0": 5, "2": 5}, "provenance": "chapter one"}
    assert found == facts


def test_a_patch_between_alike_adapters_is_refused(states, tmp_path):
    same = write(tmp_path / "same", FIRST, batches=5)
    with pytest.raises(ValueError, match="hold the same values: there is nothing to make a patch of"):
        create_patch(states[1], same, tmp_path / "learned.patch")
    assert not (tmp_path / "learned.patch").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"base": "g"}, "different bases"),
        ({"keys": 0.5}, "different keys"),
        ({"top_k": 2}, "different keys"),
        ({"shared_values": True}, "different keys"),
    ],
)
def test_another_base_and_other_keys_are_refused_everywhere(states, tmp_path, other, message):
    strange, taught = write(tmp_path / "x", EMPTY, **other), write(tmp_path / "y", {"0": {15: 1.0}}, **other)
    create_patch(states[0], states[1], tmp_path / "ours")
    create_patch(strange, taught, tmp_path / "theirs")
    before = content(strange)
    with pytest.raises(ValueError, match=message):
        create_patch(states[0], taught, tmp_path / "mixed")
    with pytest.raises(ValueError, match=message):
        apply_patch(tmp_path / "ours", strange)
    with pytest.raises(ValueError, match=message):
        revert_patch(tmp_path / "ours", taught)
    with pytest.raises(ValueError, match=message):
        merge_patches([tmp_path / "ours", tmp_path / "theirs"], tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
    assert content(strange) == before


def test_rows_that_are_not_as_the_patch_found_them_are_refused(states, tmp_path):
    patch = tmp_path / "second.patch"
    create_patch(states[1], states[2], patch)
    other = write(tmp_path / "other", {"0": {3: 9.0, 12: 1.0}}, batches=5)
    for folder, move, message in (
        # Row 3 has not learned what came first.
        (states[0], apply_patch, "conflict: 1 rows of table 0 in .* before it: revert what was applied"),
        (states[2], apply_patch, "second.patch is already applied to .*: nothing to do"),
        (other, apply_patch, "conflict: 2 rows of table 0 in .* before it"),
        (other, revert_patch, "conflict: 1 rows of table 0 in .* after it"),
        (states[1], revert_patch, "second.patch is not applied to .*: nothing to do"),
    ):
        before = content(folder)
        with pytest.raises(ValueError, match=message):
            move(patch, folder)
        assert content(folder) == before, "a refused patch changes nothing"


PARTS: list[Learned] = [{"0": {3: 1.5, 8: -2.0}}, {"0": {2: 1.0}, "2": {5: 3.0}}, {"2": {1: 0.5, 19: -1.0}}]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Patches of three trainings that all began with the same adapter and moved different rows of it."""
    for number, learned in enumerate(PARTS):
        start, end = write(tmp_path / "start", EMPTY), write(tmp_path / f"end{number}", learned, batches=number + 1)
        create_patch(start, end, tmp_path / f"part{number}", f"part {number}")
    return [tmp_path / f"part{number}" for number in range(3)]


def test_a_merged_patch_equals_its_parts_applied_in_any_order(parts, tmp_path):
    merge_patches(parts, tmp_path / "merged")
    apply_patch(tmp_path / "merged", whole := write(tmp_path / "whole", EMPTY))
    everything = {table: {r: v for part in PARTS for r, v in part.get(table, {}).items()} for table in ("0", "2")}
    assert content(whole) == content(
        write(tmp_path / "expected", everything, batches=6, trainings={"0": [1, 2], "2": [2, 3]})
    )
    for order in permutations(range(3)):
        folder = write(tmp_path / "one by one", EMPTY)
        for number in order:
            apply_patch(parts[number], folder)
        assert content(folder) == content(whole)
        merge_patches([parts[number] for number in order], tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "merged").read_bytes()
    assert read_patch(tmp_path / "merged").facts["provenance"] == "part 0; part 1; part 2"


def test_a_merged_patch_and_its_parts_undo_each_other(parts, tmp_path):
    folder = write(tmp_path / "start", EMPTY)
    before = content(folder)
    merge_patches(parts, tmp_path / "merged")
    apply_patch(tmp_path / "merged", folder)
    for number in (1, 0, 2):
        revert_patch(parts[number], folder)
    assert content(folder) == before


def test_patches_that_move_the_same_row_are_not_merged(states, tmp_path):
    create_patch(states[0], states[1], tmp_path / "one")
    create_patch(states[0], states[2], tmp_path / "two")
    with pytest.raises(ValueError, match="conflict: 2 rows of table 0 are moved by more than one patch"):
        merge_patches([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_conflict_of_several_patches_names_those_in_it(states, tmp_path):
    for name, after in (("one", states[1]), ("two", states[2])):
        create_patch(states[0], after, tmp_path / name)
    with pytest.raises(ValueError, match=r"more than one patch \(.*one, .*two\): merge those that move"):
        merge_patches([tmp_path / "one", tmp_path / "two"], tmp_path / "merged")


def test_a_folder_in_the_place_of_a_patch_is_told_so_and_nothing_is_left(states, tmp_path):
    create_patch(states[0], states[1], tmp_path / "one")
    for call in (read_patch, lambda folder: merge_patches([tmp_path / "one"], folder)):
        with pytest.raises(ValueError, match=f"{states[0]} is a folder: name a file"):
            call(states[0])
    assert not states[0].with_name(f"{states[0].name}.partial").exists()


@pytest.mark.parametrize("share", [0, 0.2, 0.8, 0.99])
def test_a_patch_that_is_cut_short_is_refused_and_the_adapter_left_alone(states, tmp_path, share):
    patch = tmp_path / "learned.patch"
    create_patch(states[0], states[1], patch)
    patch.write_bytes(patch.read_bytes()[: int(share * patch.stat().st_size)])
    before = content(states[0])
    with pytest.raises(ValueError, match="learned.patch is damaged or cut short"):
        apply_patch(patch, states[0])
    assert content(states[0]) == before


def test_a_patch_of_another_version_is_refused(states, tmp_path):
    patch = tmp_path / "learned.patch"
    create_patch(states[0], states[1], patch)
    save_file(read_patch(patch).tensors, patch, {"active-reading memory patch 2": "{}"})
    with pytest.raises(ValueError, match="learned.patch is of another version.*: train it again"):
        apply_patch(patch, states[0])


def test_files_that_are_no_patches_are_refused(states, tmp_path):
    with pytest.raises(ValueError, match="memory.safetensors is no memory patch"):
        read_patch(states[1] / "memory.safetensors")
    with pytest.raises(ValueError, match="nothing.patch does not exist"):
        read_patch(tmp_path / "nothing.patch")


@pytest.mark.parametrize("name", ["0.rows", "2.values", "2.background_reads", "0.background_gradients"])
def test_an_adapter_that_lacks_a_tensor_is_refused_by_name(states, name):
    files = read_adapter(states[1])
    del files.tensors[name]
    write_adapter(files, states[1])
    with pytest.raises(ValueError, match=rf"memory.safetensors is .*older version: it lacks {name}; make it again"):
        read_adapter(states[1])
