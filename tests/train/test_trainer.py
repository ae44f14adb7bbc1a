"""Training a tiny random model with each method: it learns, saves what it learned, and touches nothing else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from active_reading.train import trainer
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import LearningRates, LoraSettings, MemorySettings, TrainSettings
from active_reading.train.trainer import read_background, train_model

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


def train(base: Path, method: Any, folder: Path, **changes: Any) -> Run:
    """`train_model`, keeping hold of the model that it trains in place."""
    models, progress = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "load_model", lambda *args: models.append(load_model(*args)) or models[-1])
        settings = SETTINGS.model_copy(update=changes)
        summary = train_model(TEXTS, str(base), method, settings, folder, lambda *args: progress.append(args))
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
    summary, tensors = runs["memory"].summary, load_file(runs["memory"].folder / "memory.safetensors")
    moved = sum(int(tensors[f"{layer}.values"].any(1).sum()) for layer in (1, 2))
    assert summary["touched_parameters"] == moved * 32
    assert summary["trainable_parameters"] == 2 * 64 * 32
    assert 0 < moved < 128


def test_background_counts_are_saved_with_the_memory(runs):
    tensors = load_file(runs["memory"].folder / "memory.safetensors")
    num_tokens = sum(min(len(text.encode()), 47) + 1 for text in read_background(3))
    counts = tensors["1.background_counts"]
    assert counts.max() > 0
    assert counts.max() <= num_tokens / 48, "a count is of batches, and a batch holds a text at least"


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
    assert names["memory"] == {"memory_config.json", "memory.safetensors", "metrics.jsonl"}
    assert names["lora"] - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl"} <= names["full"]
    assert not {name for found in names.values() for name in found if name.endswith((".bin", ".pt", ".pkl"))}


def test_a_fully_trained_model_brings_its_tokenizer(runs, tiny_tokenizer):
    assert load_tokenizer(runs["full"].folder)("cat")["input_ids"] == tiny_tokenizer("cat")["input_ids"]


@EACH_METHOD
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_model, tmp_path, method):
    def weights(folder: Path) -> dict[str, Tensor]:
        (path,) = folder.glob("*.safetensors")
        return load_file(path)

    names = ("once", "again", "other")
    runs = [train(tiny_model, method, tmp_path / name, num_tokens=200, seed=int(name == "other")) for name in names]
    first, second, third = (weights(run.folder) for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    assert read_metrics(runs[0].folder) == read_metrics(runs[1].folder) != read_metrics(runs[2].folder)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is nan at step \d+: lower the learning rate"):
        train(tiny_model, "full", tmp_path, learning_rates=LearningRates(full=1e30))


@EACH_METHOD
@pytest.mark.parametrize("texts", [[], [""]])
def test_an_empty_data_set_is_refused(tiny_model, tmp_path, method, texts):
    with pytest.raises(ValueError, match="the data set has no text to train on"):
        train_model(texts, str(tiny_model), method, SETTINGS, tmp_path, lambda *_: None)


def test_more_background_texts_than_ship_are_refused():
    number = len(read_background(0))
    assert number > 100
    with pytest.raises(ValueError, match=f"train.memory.background_texts={number + 1}, and {number} ship"):
        read_background(number + 1)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
