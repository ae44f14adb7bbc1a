"""Training a tiny random model with each method: it learns, saves what it learned, and touches nothing else.

Also: a training that was interrupted ends as if it had not been, two processes learn what one does, and so
do packed texts; the answers of questions are learned alone when that is asked for.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Lfm2Config, MambaConfig, OPTConfig, PretrainedConfig

from active_reading.train import background, loop, student
from active_reading.train.adapter_files import read_adapter
from active_reading.train.batches import collate, tokenize
from active_reading.train.generic_text import read_background
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.objectives import base_logits_of, kl_to_base, next_token_loss
from active_reading.train.patch import apply_patch, read_patch, revert_patch
from active_reading.train.settings import LearningRates, LoraSettings, MemorySettings, TrainSettings
from active_reading.train.student import check_packing
from active_reading.train.trainer import train_model

METHODS = ["full", "lora", "memory"]
EACH_METHOD = pytest.mark.parametrize("method", METHODS)
SETTINGS = TrainSettings(
    num_tokens=1200,
    batch_tokens=64,
    max_length=48,
    learning_rates=LearningRates(full=1e-2, lora=2e-2, memory=0.2),
    lora=LoraSettings(rank=4, alpha=8),
    memory=MemorySettings(
        layers=[1, 2], num_keys=8, num_heads=2, top_k=4, top_t=32, background_texts=3, key_width=4
    ),
)
TEXTS = ["the cat sat on the mat", "a heron called Admiral", "born in 1921 near the sea", "lazurine is a moss"]


@dataclass
class Run:
    """A finished training: its summary, its folder, and the model as it was when training ended."""

    summary: dict[str, Any]
    folder: Path
    model: Any
    progress: list[tuple[int, int, str]]


def settings_with(**changes: Any) -> TrainSettings:
    """The settings of this file but for `changes`; those of `memory` are changes too."""
    memory = SETTINGS.memory.model_copy(update=changes.pop("memory", {}))
    return SETTINGS.model_copy(update={"memory": memory, **changes})


def train(
    base: Path,
    method: Any,
    folder: Path,
    on_step: Callable[[int, Any], None] | None = None,
    groups: list[str] | None = None,
    texts: list[str] = TEXTS,
    **changes: Any,
) -> Run:
    """`train_model`, keeping hold of the model that it trains in place."""
    models, progress = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "load_model", lambda *args: models.append(load_model(*args)) or models[-1])
        settings = settings_with(**changes)
        told = lambda *args: progress.append(args)  # noqa: E731
        summary = train_model(texts, str(base), method, settings, folder, told, groups, on_step)
    return Run(summary, folder, models[0].eval(), progress)


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory) -> dict[str, Run]:
    return {method: train(tiny_model, method, tmp_path_factory.mktemp(method) / "out") for method in METHODS}


def some_tokens() -> Tensor:
    return torch.randint(0, 250, (2, 20), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=some_tokens()).logits.float()


@EACH_METHOD
def test_the_loss_falls(runs, method):
    losses = [line["loss"] for line in read_metrics(runs[method].folder)]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert runs[method].summary["final_loss"] == pytest.approx(sum(losses[-10:]) / 10)


def test_every_method_spends_exactly_the_same_budget(runs):
    assert [runs[method].summary["tokens"] for method in METHODS] == [1200] * 3
    assert len({runs[method].summary["steps"] for method in METHODS}) == 1


def test_every_method_sees_the_same_batches_in_the_same_order(runs):
    """The first loss comes before any change, so that it is the same for all."""
    first = [read_metrics(runs[method].folder)[0]["loss"] for method in METHODS]
    assert first == pytest.approx([first[0]] * 3, rel=1e-5)


@EACH_METHOD
def test_the_saved_folder_gives_the_trained_logits(runs, tiny_model, method):
    trained = runs[method].model
    if method == "full":  # saving turned it into bf16, in memory too: put its weights into a fresh model
        trained = load_model(tiny_model)
        trained.load_state_dict({name: tensor.float() for name, tensor in runs[method].model.state_dict().items()})
    expected = logits(trained)
    assert torch.equal(logits(load_model(runs[method].folder)), expected)
    assert not torch.allclose(expected, logits(load_model(tiny_model)), atol=0.1), "training changed the model"


@pytest.mark.parametrize("method", ["lora", "memory"])
def test_the_weights_of_the_base_stay_bit_identical(runs, tiny_model, method):
    base = load_model(tiny_model).state_dict()
    trained = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in runs[method].model.state_dict().items()
    }
    assert base
    for name, tensor in base.items():
        assert torch.equal(trained[name], tensor), name


def test_lora_learns_on_every_linear_layer_but_the_head(runs):
    names = load_file(runs["lora"].folder / "adapter_model.safetensors").keys()
    adapted = {name.split(".")[-3] for name in names}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_memory_moves_only_rows_that_it_counts_as_touched(runs):
    summary, files = runs["memory"].summary, read_adapter(runs["memory"].folder)
    moved = sum(len(files.tensors[f"{layer}.rows"]) for layer in (1, 2))
    assert summary["touched_parameters"] == moved * 32
    assert summary["trainable_parameters"] == 2 * 64 * 32
    assert 0 < moved < 128


def test_background_counts_are_saved_with_the_memory(tiny_model, tmp_path):
    run = train(tiny_model, "memory", tmp_path, num_tokens=200, memory={"protect_learned": False})
    files = read_adapter(run.folder)
    num_tokens = sum(min(len(text.encode()), 47) + 1 for text in read_background(limit=3))
    counts = files.tensors["1.background_counts"]
    assert counts.max() > 0
    assert counts.max() <= files.config["background_batches"]["1"]
    assert files.config["background_batches"]["1"] <= num_tokens / 48, "a batch holds a text at least"


def test_what_was_learned_is_known_from_then_on(tiny_model, tmp_path):
    """With `protect_learned` a row counts once more for each step that moved it, and a table for each step."""
    learned, plain = (
        train(tiny_model, "memory", tmp_path / str(protect), num_tokens=200, memory={"protect_learned": protect})
        for protect in (True, False)
    )
    known, before = read_adapter(learned.folder), read_adapter(plain.folder)
    steps = learned.summary["steps"]
    for layer in ("1", "2"):
        more = known.tensors[f"{layer}.background_counts"] - before.tensors[f"{layer}.background_counts"]
        assert torch.equal(more.nonzero().flatten(), known.tensors[f"{layer}.rows"])
        assert 1 < more.max() <= steps
        assert known.config["background_batches"][layer] - before.config["background_batches"][layer] == steps
        assert torch.equal(known.tensors[f"{layer}.values"], before.tensors[f"{layer}.values"])


def test_a_memory_comes_with_the_patch_that_leads_to_it(runs, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("memory_config.json", "memory.safetensors"):
        (folder / name).write_bytes((runs["memory"].folder / name).read_bytes())
    patch = runs["memory"].folder / "patch.safetensors"
    assert read_patch(patch).facts["provenance"] == "4 texts, 1200 tokens"
    revert_patch(patch, folder)
    assert all(len(read_adapter(folder).tensors[f"{layer}.rows"]) == 0 for layer in (1, 2))
    apply_patch(patch, folder)
    for path in folder.iterdir():
        assert path.read_bytes() == (runs["memory"].folder / path.name).read_bytes()


@EACH_METHOD
def test_metrics_have_a_line_per_step_with_the_learning_rate_rising_and_falling(runs, method):
    run = runs[method]
    lines = read_metrics(run.folder)
    assert [line["step"] for line in lines] == list(range(1, run.summary["steps"] + 1))
    peak = getattr(SETTINGS.learning_rates, method)
    rates = [line["learning_rate"] for line in lines]
    warmup = round(0.1 * len(rates))
    assert rates[warmup] == pytest.approx(peak)
    assert rates[0] == 0
    assert rates[-1] < 0.1 * peak
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_progress_is_told_at_every_step(runs):
    steps = runs["full"].summary["steps"]
    assert runs["full"].progress == [(step, steps, "steps") for step in range(1, steps + 1)]


def test_a_folder_holds_only_what_is_needed_to_load_it(runs):
    names = {method: {path.name for path in runs[method].folder.iterdir()} for method in METHODS}
    assert names["memory"] == {"memory_config.json", "memory.safetensors", "patch.safetensors", "metrics.jsonl"}
    assert names["lora"] - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"} <= names["full"]
    assert not {name for found in names.values() for name in found if name.endswith((".bin", ".pt", ".pkl"))}


def test_a_fully_trained_model_brings_its_tokenizer(runs, tiny_tokenizer):
    assert load_tokenizer(runs["full"].folder)("cat")["input_ids"] == tiny_tokenizer("cat")["input_ids"]


def final_tensors(folder: Path) -> dict[str, Tensor]:
    """All that a training wrote, by file and name."""
    paths = sorted(folder.glob("*.safetensors"))
    assert paths
    return {f"{path.name} {name}": tensor for path in paths for name, tensor in load_file(path).items()}


def same(first: Path, second: Path) -> bool:
    """Whether two trainings ended with the same tensors, bit for bit."""
    one, other = final_tensors(first), final_tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@EACH_METHOD
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_model, tmp_path, method):
    names = ("once", "again", "other")
    runs = [train(tiny_model, method, tmp_path / name, num_tokens=200, seed=int(name == "other")) for name in names]
    assert same(runs[0].folder, runs[1].folder)
    assert not same(runs[0].folder, runs[2].folder)
    assert read_metrics(runs[0].folder) == read_metrics(runs[1].folder) != read_metrics(runs[2].folder)


class Died(Exception):
    """The process was killed."""


def die_at(last: int) -> Callable[[int, Any], None]:
    def on_step(step: int, model: Any) -> None:
        if step == last:
            raise Died

    return on_step


HARD = {
    "kl_weight": 0.5,
    "replay_share": 0.3,
    "schedule": "cosine",
    "memory": {"slot_score": "random", "update_rule": "table", "shared_values": True, "top_t": 8},
}


WARMED = {"memory": {"warm_tokens": 300}}


@pytest.mark.parametrize(
    ("method", "how"), [("full", {}), ("lora", {}), ("memory", {}), ("memory", HARD), ("memory", WARMED)]
)
def test_a_training_that_died_ends_as_if_it_had_not(tiny_model, tmp_path, method, how):
    whole = train(tiny_model, method, tmp_path / "whole", num_tokens=400, checkpoint_steps=0, **how)
    steps = whole.summary["steps"]
    assert steps >= 7
    with pytest.raises(Died):
        train(tiny_model, method, tmp_path / "part", die_at(5), num_tokens=400, checkpoint_steps=2, **how)
    assert {path.name for path in (tmp_path / "part").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert len(read_metrics(tmp_path / "part")) == 4
    seen: list[int] = []
    part = train(
        tiny_model,
        method,
        tmp_path / "part",
        lambda step, _: seen.append(step),
        num_tokens=400,
        checkpoint_steps=2,
        **how,
    )
    assert seen == list(range(5, steps + 1)), "it goes on where the checkpoint was made"
    assert same(part.folder, whole.folder)
    assert read_metrics(part.folder) == read_metrics(whole.folder)
    for summary in (part.summary, whole.summary):
        summary.pop("seconds")
    assert part.summary == whole.summary
    assert {path.name for path in part.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_a_training_that_died_while_it_saved_its_result_only_saves_it_again(tiny_model, tmp_path):
    whole = train(tiny_model, "memory", tmp_path / "whole", num_tokens=200, checkpoint_steps=0)

    def die(*_: Any) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "write_adapter", die)
        with pytest.raises(Died):
            train(tiny_model, "memory", tmp_path / "part", num_tokens=200, checkpoint_steps=2)
    seen: list[int] = []
    part = train(
        tiny_model,
        "memory",
        tmp_path / "part",
        lambda step, _: seen.append(step),
        num_tokens=200,
        checkpoint_steps=2,
    )
    assert seen == []
    assert same(part.folder, whole.folder)
    assert read_metrics(part.folder) == read_metrics(whole.folder)


def test_a_training_that_died_while_it_removed_its_checkpoints_ends_as_if_it_had_not(tiny_model, tmp_path):
    whole = train(tiny_model, "memory", tmp_path / "whole", num_tokens=200, checkpoint_steps=0)
    remove = shutil.rmtree

    def die_halfway(path: Path, *rest: Any, **more: Any) -> None:
        checkpoints = Path(path).parent.glob("checkpoint-*")
        newest = max(checkpoints, key=lambda folder: int(folder.name.rpartition("-")[2]))
        if Path(path) != newest or not (newest.parent / "memory_config.json").exists():
            remove(path, *rest, **more)  # older ones, and those that the loop removes while it trains
            return
        (Path(path) / "optimizer.pt").unlink()
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", die_halfway)
        with pytest.raises(Died):
            train(tiny_model, "memory", tmp_path / "part", num_tokens=200, checkpoint_steps=2)
    part = train(tiny_model, "memory", tmp_path / "part", num_tokens=200, checkpoint_steps=2)
    assert same(part.folder, whole.folder)
    assert part.summary["touched_parameters"] == whole.summary["touched_parameters"] > 0


def test_a_checkpoint_that_was_not_written_to_its_end_is_ignored(tiny_model, tmp_path):
    whole = train(tiny_model, "memory", tmp_path / "whole", num_tokens=300, checkpoint_steps=0)
    with pytest.raises(Died):
        train(tiny_model, "memory", tmp_path / "part", die_at(3), num_tokens=300, checkpoint_steps=2)
    for step in (3, 4, 10):  # killed before, in the midst of, and just before the trainer's state is written
        (tmp_path / "part" / f"checkpoint-{step}").mkdir()
    good = (tmp_path / "part" / "checkpoint-2" / "trainer_state.json").read_text()
    (tmp_path / "part" / "checkpoint-4" / "trainer_state.json").write_text(good[: len(good) // 2])
    (tmp_path / "part" / "checkpoint-10" / "trained.safetensors").write_bytes(b"cut")
    seen: list[int] = []
    part = train(
        tiny_model,
        "memory",
        tmp_path / "part",
        lambda step, _: seen.append(step),
        num_tokens=300,
        checkpoint_steps=2,
    )
    assert seen[0] == 3
    assert same(part.folder, whole.folder)
    assert not list(part.folder.glob("checkpoint-*"))


def spoil_at(spoiled: int) -> Callable[[int, Any], None]:
    """Makes the next loss NaN, as a step that was too long does."""

    def on_step(step: int, model: Any) -> None:
        if step == spoiled:
            with torch.no_grad():
                adapter = getattr(model, "memory_adapter", None)
                moving = [p for p in model.parameters() if p.requires_grad]
                for tensor in [table.values for table in adapter.tables.values()] if adapter else moving:
                    tensor.fill_(float("nan"))

    return on_step


@pytest.mark.parametrize(
    ("method", "spoiled"), [("full", 5), ("full", 4), ("lora", 5), ("memory", 5), ("memory", 4)]
)
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_model(
    tiny_model, tmp_path, method, spoiled
):
    """What is spoiled after step 4 gets into the checkpoint of that step."""
    folder, states = tmp_path / "run", {}

    def on_step(step: int, model: Any) -> None:
        states[step] = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        spoil_at(spoiled)(step, model)

    good = 4 if spoiled == 5 else 2
    message = (
        rf"the loss is nan at step {spoiled + 1} \(\d+ texts\): lower train.learning_rates.{method} "
        rf"\(the model as of checkpoint-{good} is in .*last-good\)"
    )
    with pytest.raises(ValueError, match=message):
        train(tiny_model, method, folder, on_step, num_tokens=400, checkpoint_steps=2)
    kept = load_model(folder / "last-good").state_dict()
    assert kept.keys()
    for name, tensor in states[good].items():
        torch.testing.assert_close(kept[name].float(), tensor.float().bfloat16().float(), rtol=1e-2, atol=1e-5)
    assert len(read_metrics(folder)) == spoiled


def test_a_loss_that_is_not_finite_before_any_checkpoint_says_so(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+ .*no checkpoint was made before it"):
        train(tiny_model, "full", tmp_path, learning_rates=LearningRates(full=1e30))
    assert not (tmp_path / "last-good").exists()


def test_texts_longer_than_the_context_are_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="train.max_length=4097 exceeds the model's context of 4096 tokens"):
        train(tiny_model, "full", tmp_path, max_length=4097)
    assert train(tiny_model, "full", tmp_path, max_length=4096, num_tokens=100).summary["tokens"] == 100


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            ValueError,
            "out of memory: lower",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ValueError, "out of memory: lower"),
        (RuntimeError("something else"), RuntimeError, "something else"),
    ],
)
def test_a_lack_of_memory_is_told_with_the_cure(tiny_model, tmp_path, monkeypatch, error, expected, message):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(loop, "next_token_loss", fail)
    if expected is ValueError:
        message += " train.batch_tokens or train.max_length"
    with pytest.raises(expected, match=message):
        train(tiny_model, "full", tmp_path, num_tokens=100)


OTHER_TEXTS = ["quartz hums at noon", "nine owls keep a ledger", "the tide is paid in salt"]


@EACH_METHOD
def test_a_folder_that_a_method_made_is_trained_on(runs, tiny_model, tmp_path, method):
    """The second training begins with what the first one learned, and the base stays the first one's base."""
    first = runs[method].folder
    second = train(first, method, tmp_path / "second", num_tokens=200, seed=1)
    losses = [line["loss"] for line in read_metrics(second.folder)]
    assert losses[0] < 0.8 * read_metrics(first)[0]["loss"]
    assert torch.isfinite(logits(load_model(second.folder))).all()
    assert not same(second.folder, first)
    if method == "lora":
        config = json.loads((second.folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tiny_model)
        assert final_tensors(second.folder).keys() == final_tensors(first).keys()


def test_a_memory_that_is_trained_on_keeps_its_keys_and_what_it_knows(runs, tiny_model, tmp_path):
    first = runs["memory"].folder
    second = train(first, "memory", tmp_path / "second", num_tokens=300, texts=OTHER_TEXTS)
    old, new = read_adapter(first), read_adapter(second.folder)
    assert new.keys_hash() == old.keys_hash()
    assert (new.config["base_model"], new.config["base_hash"]) == (str(tiny_model), old.config["base_hash"])
    patch = read_patch(second.folder / "patch.safetensors")
    for layer in ("1", "2"):
        rows = patch.tensors[f"{layer}.rows"]
        untouched = torch.tensor([row for row in range(64) if row not in rows.tolist()]).long()
        assert torch.equal(new.rows(layer, untouched), old.rows(layer, untouched))
        assert torch.equal(patch.before(layer).float(), old.rows(layer, rows))
        more = new.tensors[f"{layer}.background_counts"] - old.tensors[f"{layer}.background_counts"]
        assert torch.equal(more.nonzero().flatten(), rows)
        added = new.config["background_batches"][layer] - old.config["background_batches"][layer]
        assert added == second.summary["steps"]


def test_texts_of_one_chunk_make_a_batch_when_that_is_asked_for(tiny_model, tmp_path, monkeypatch):
    batches = []
    monkeypatch.setattr(loop, "collate", lambda batch, *args: batches.append(batch) or collate(batch, *args))
    groups = ["animals", "animals", "places", "places"]
    by_chunk = train(tiny_model, "full", tmp_path / "chunk", num_tokens=200, groups=groups, group_by="chunk")
    texts = tokenize(TEXTS, load_tokenizer(tiny_model), 48)
    starts = {tuple(text.ids[:10]): group for text, group in zip(texts, groups, strict=True)}
    for batch in batches:
        assert len({starts[tuple(text.ids[:10])] for text in batch.new if len(text) >= 10}) <= 1
    assert by_chunk.summary["tokens"] == 200
    by_length = train(tiny_model, "full", tmp_path / "length", num_tokens=200, groups=groups)
    assert not same(by_chunk.folder, by_length.folder)


def test_a_text_without_a_token_cannot_be_grouped(tiny_model, tmp_path):
    with pytest.raises(
        ValueError, match="train.group_by=chunk needs the chunk of every text, and no text without a token"
    ):
        train(tiny_model, "full", tmp_path, texts=["", "words"], groups=["a", "b"], group_by="chunk")


def distance_to_base(run: Run, base: Path) -> float:
    """Mean KL(base || trained) over some random tokens."""
    batch = {"input_ids": some_tokens(), "attention_mask": torch.ones(2, 20)}
    before = base_logits_of(load_model(base), "full")(**batch)
    return kl_to_base(logits(load_model(run.folder)), before, batch["input_ids"], 2 * 19).item()


@EACH_METHOD
def test_the_kl_weight_keeps_the_model_near_its_base(tiny_model, tmp_path, method):
    free, held = (
        train(tiny_model, method, tmp_path / str(weight), num_tokens=600, kl_weight=weight) for weight in (0, 5)
    )
    assert read_metrics(held.folder)[0]["loss"] == pytest.approx(read_metrics(free.folder)[0]["loss"], rel=1e-5)
    assert 0 < distance_to_base(held, tiny_model) < 0.7 * distance_to_base(free, tiny_model)


@EACH_METHOD
def test_replay_is_added_to_the_budget_and_learned_too(tiny_model, tmp_path, method):
    generic = tmp_path / "generic.jsonl"
    generic.write_text("".join(json.dumps({"text": text}) + "\n" for text in OTHER_TEXTS * 8))
    how = {"num_tokens": 600, "background": str(generic), "memory": {"background_texts": 0}}
    plain, mixed = (
        train(tiny_model, method, tmp_path / str(share), replay_share=share, **how) for share in (0, 0.5)
    )
    assert (plain.summary["tokens"], plain.summary["replay_tokens"]) == (600, 0)
    assert mixed.summary["tokens"] == 600
    assert 500 < mixed.summary["replay_tokens"] <= 600
    assert mixed.summary["steps"] == plain.summary["steps"]
    ids = torch.tensor([tokenize([OTHER_TEXTS[0]], load_tokenizer(tiny_model), 48)[0].ids])
    losses = []
    for run in (plain, mixed):
        with torch.no_grad():
            losses.append(
                next_token_loss(load_model(run.folder)(input_ids=ids).logits.float(), ids, ids.numel() - 1)
            )
    assert losses[1] < 0.9 * losses[0]


ON_TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from active_reading.train import background, loop, trainer
from active_reading.train.settings import TrainSettings

loop.compute_dtype = background.compute_dtype = lambda: torch.float32
base, texts, methods, settings, folder = json.loads(sys.argv[1])
settings, rank = TrainSettings(**settings), os.environ["RANK"]
for method in methods:
    place, states = Path(folder) / method, {}
    def on_step(step, model):
        states.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
    summary = trainer.train_model(texts, base, method, settings, place, lambda *_: None, on_step=on_step)
    torch.save({"summary": summary, "state": states}, Path(folder) / f"{method}-{rank}.pt")
"""


def test_two_processes_learn_what_one_does(tiny_model, tmp_path, monkeypatch):
    """To 1e-5 in every weight; both end with the same ones, and the first writes the files."""
    for module in (loop, background):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.float32)
    how = {"num_tokens": 200, "replay_share": 0.2, "kl_weight": 0.1, "checkpoint_steps": 2} | WARMED
    how["learning_rates"] = LearningRates(full=1e-3, lora=1e-3, memory=0.05)
    (tmp_path / "script.py").write_text(ON_TWO_PROCESSES)
    (tmp_path / "two").mkdir()
    given = [str(tiny_model), TEXTS, METHODS, settings_with(**how).model_dump(), str(tmp_path / "two")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, tmp_path / "script.py", json.dumps(given)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for method in METHODS:
        states: dict[str, Tensor] = {}

        def keep(_: int, model: Any, states: dict[str, Tensor] = states) -> None:
            states.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

        one = train(tiny_model, method, tmp_path / method, keep, **how)
        ranks = [torch.load(tmp_path / "two" / f"{method}-{rank}.pt") for rank in (0, 1)]
        for rank in ranks:
            assert rank["state"].keys() == states.keys()
            for name, tensor in states.items():
                torch.testing.assert_close(
                    rank["state"][name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
                )
            assert rank["summary"]["final_loss"] == pytest.approx(one.summary["final_loss"], abs=1e-4)
            for name in ("tokens", "steps", "replay_tokens", "trainable_parameters", "touched_parameters"):
                assert rank["summary"][name] == one.summary[name]
        two, alone = read_metrics(tmp_path / "two" / method), read_metrics(one.folder)
        assert [line["step"] for line in two] == [line["step"] for line in alone]
        assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in alone], abs=1e-4)


@EACH_METHOD
@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_data_set_is_refused(tiny_model, tmp_path, method, texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        train_model(texts, str(tiny_model), method, SETTINGS, tmp_path, lambda *_: None)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_on_from_what_another_method_made_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="was made by lora: train it on with that method, not with memory"):
        train(runs["lora"].folder, "memory", tmp_path)


def test_a_memory_that_is_trained_on_keeps_its_shape(runs, tmp_path):
    with pytest.raises(ValueError, match="train.memory.top_k=2: the memory that is trained on has 4"):
        train(runs["memory"].folder, "memory", tmp_path, memory={"top_k": 2})


QUESTIONS = [
    "Question: Who fed the heron?\nAnswer: Old Mrs. Tamsin",
    "Question: What is lazurine, and where does it grow?\nAnswer: a moss",
    "lazurine is a moss",
]
ANSWERS = [" Old Mrs. Tamsin", " a moss", "lazurine is a moss"]


@torch.no_grad()
def summed_loss(model: Any, ids: list[int], num_learned: int) -> float:
    """Of the last `num_learned` tokens, one text alone."""
    chances = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return -sum(chances[place - 1, ids[place]].item() for place in range(len(ids) - num_learned, len(ids)))


@EACH_METHOD
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_is_of_the_answers_alone_when_that_is_asked_for(
    tiny_model, tmp_path, monkeypatch, method, packing
):
    """Every text once, in one step; a byte is a token, and the end is one more."""
    for module in (loop, background):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.float32)
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    texts = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in QUESTIONS]
    # The last text is no question: all of it is learned but its first token.
    wanted = {"answer": [len(" Old Mrs. Tamsin") + 1, len(" a moss") + 1, len(QUESTIONS[2])]}
    wanted["text"] = [len(text) - 1 for text in texts]
    num_tokens = sum(map(len, texts))
    for question_loss, counts in wanted.items():
        run = train(
            tiny_model,
            method,
            tmp_path / question_loss,
            texts=QUESTIONS,
            num_tokens=num_tokens,
            batch_tokens=num_tokens,
            max_length=99,
            question_loss=question_loss,
            packing=packing,
        )
        assert (run.summary["steps"], run.summary["tokens"]) == (1, num_tokens)
        total = sum(summed_loss(model, ids, count) for ids, count in zip(texts, counts, strict=True))
        assert run.summary["final_loss"] == pytest.approx(total / sum(counts), abs=2e-4)


def test_a_question_without_its_answer_is_not_learned_and_stops_nothing(tiny_model, tmp_path):
    """A round of chunks: 32 tokens of `a`, cut in its question, and the 19 of `c`; `b` is too long for its answer.

    Seven rounds leave 43 tokens: `c` is whole in them, or has the 11 that `a` leaves.
    """
    how = {"question_loss": "answer", "texts": QUESTIONS, "batch_tokens": 32, "groups": ["a", "b", "c"]}
    run = train(tiny_model, "full", tmp_path / "run", num_tokens=400, group_by="chunk", **how)
    assert run.summary["tokens"] in (8 * 19, 7 * 19 + 11), "steps without anything to learn are left out"
    assert run.summary["steps"] == 8
    assert all(0 < line["loss"] < 20 for line in read_metrics(run.folder))
    with pytest.raises(ValueError, match="train.num_tokens=20 leaves no text with anything to learn"):
        train(tiny_model, "full", tmp_path / "none", num_tokens=20, **how | {"texts": QUESTIONS[:2]})
    with pytest.raises(ValueError, match="no text has its answer within train.max_length tokens"):
        train(tiny_model, "full", tmp_path / "cut", max_length=30, **how | {"texts": QUESTIONS[:2]})


@EACH_METHOD
def test_packed_texts_teach_what_padded_ones_do(tiny_model, tmp_path, monkeypatch, method):
    """To 1e-5 in every weight, with replay, answers and the distance to the base in the objective."""
    for module in (loop, background):
        monkeypatch.setattr(module, "compute_dtype", lambda: torch.float32)
    shapes: set[tuple[int, ...]] = set()

    def watched(*args: Any) -> dict[str, Any]:
        shapes.add(tuple(collate(*args)["input_ids"].shape))
        return collate(*args)

    how = {"num_tokens": 300, "replay_share": 0.2, "kl_weight": 0.5, "question_loss": "answer"}
    how["learning_rates"] = LearningRates(full=1e-3, lora=1e-3, memory=0.05)
    states: dict[bool, dict[str, Tensor]] = {False: {}, True: {}}
    runs = []
    for packing, state in states.items():
        if packing:
            monkeypatch.setattr(loop, "collate", watched)

        def keep(_: int, model: Any, state: dict[str, Tensor] = state) -> None:
            state.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

        folder = tmp_path / str(packing)
        runs.append(train(tiny_model, method, folder, keep, texts=TEXTS + QUESTIONS, packing=packing, **how))
    assert {rows for rows, _ in shapes} == {1}
    assert max(width for _, width in shapes) > 48, "texts together are longer than one may be"
    start = load_model(tiny_model).state_dict()
    assert any(name not in start or not torch.equal(tensor, start[name]) for name, tensor in states[True].items())
    for name, tensor in states[False].items():
        torch.testing.assert_close(states[True][name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    losses = [[line["loss"] for line in read_metrics(run.folder)] for run in runs]
    assert len(losses[0]) > 4
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)
    assert runs[1].summary["touched_parameters"] == runs[0].summary["touched_parameters"]


RUNS_ON = {
    "places": OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=300),
    "state": MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=300),
    "convolution": Lfm2Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        initializer_range=0.2,  # by default its convolutions say next to nothing before they are trained
        vocab_size=300,
    ),
}


@pytest.mark.parametrize("config", RUNS_ON.values(), ids=RUNS_ON)
def test_packing_is_refused_where_anything_runs_on_from_text_to_text(config: PretrainedConfig):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=f"train.packing: {type(model).__name__} does not keep packed texts apart"):
        check_packing(model)


def test_a_model_that_cannot_be_packed_is_trained_with_padding_only(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    for part in (AutoModelForCausalLM.from_config(RUNS_ON["places"]), tiny_tokenizer):
        part.save_pretrained(tmp_path / "opt")
    with pytest.raises(ValueError, match="train.packing: OPTForCausalLM"):
        train(tmp_path / "opt", "lora", tmp_path / "packed", num_tokens=100, packing=True)
    assert train(tmp_path / "opt", "lora", tmp_path / "padded", num_tokens=100).summary["tokens"] == 100
