"""A training that was interrupted ends as if it had not been; one whose loss is not finite keeps what was good."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import WARMED, Run, read_metrics, same, train

from active_reading.train import student
from active_reading.train.load import load_model
from active_reading.train.loop import Loop
from active_reading.train.settings import LearningRates


class Died(Exception):
    """The process was killed."""


def train_on(base: Path, folder: Path, num_tokens: int) -> tuple[Run, list[int]]:
    """The rest of a training of memory, and the steps that it took."""
    seen: list[int] = []

    def note(step: int, model: Any) -> None:
        seen.append(step)

    return train(base, "memory", folder, note, num_tokens=num_tokens, checkpoint_steps=2), seen


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


def test_a_training_of_fewer_steps_than_a_checkpoint_writes_none(monkeypatch, tiny_model, tmp_path):
    written: list[int] = []
    monkeypatch.setattr(Loop, "_save_checkpoint", lambda loop, *_: written.append(loop.state.global_step))
    steps = train(tiny_model, "full", tmp_path / "one", num_tokens=200, checkpoint_steps=100).summary["steps"]
    assert written == []
    train(tiny_model, "full", tmp_path / "two", num_tokens=200, checkpoint_steps=2)
    assert written[-1] == steps, "with checkpoints, there is one after the last step"


def test_a_training_that_died_while_it_saved_its_result_only_saves_it_again(tiny_model, tmp_path):
    whole = train(tiny_model, "memory", tmp_path / "whole", num_tokens=200, checkpoint_steps=0)

    def die(*_: Any) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "write_adapter", die)
        with pytest.raises(Died):
            train(tiny_model, "memory", tmp_path / "part", num_tokens=200, checkpoint_steps=2)
    part, seen = train_on(tiny_model, tmp_path / "part", num_tokens=200)
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
    part, seen = train_on(tiny_model, tmp_path / "part", num_tokens=300)
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
    rtol, atol = (1e-2, 1e-5) if method == "memory" else (0.0, 0.0)  # a memory's rows are stored in bf16
    for name, tensor in states[good].items():
        torch.testing.assert_close(kept[name].float(), tensor.float(), rtol=rtol, atol=atol)
    assert len(read_metrics(folder)) == spoiled


def test_a_loss_that_is_not_finite_before_any_checkpoint_says_so(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+ .*no checkpoint was made before it"):
        train(tiny_model, "full", tmp_path, learning_rates=LearningRates(full=1e30))
    assert not (tmp_path / "last-good").exists()


def test_a_loss_that_is_not_finite_before_any_training_is_the_models_own(tiny_model, tmp_path):
    broken = load_model(tiny_model)
    next(broken.parameters()).data.fill_(float("nan"))
    shutil.copytree(tiny_model, tmp_path / "broken")
    broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="nan at step 1 .*before any training: the weights in .*broken are broken"):
        train(tmp_path / "broken", "full", tmp_path / "run", num_tokens=100)
