"""Training with weights that are shared out (FSDP): two processes learn what one does, and resume like one.

Not covered: GPUs. `accelerate` has FSDP on accelerators only, so the script turns it on by hand, on gloo. Real
are the settings of the configuration file, `fully_shard`, and all that training does with it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from active_reading.train import loop
from active_reading.train.load import load_model, load_tokenizer
from active_reading.train.settings import LearningRates, LoraSettings, TrainSettings
from active_reading.train.trainer import train_model

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["the cat sat on the mat", "a heron called Admiral", "born in 1921 near the sea", "lazurine is a moss"]
SETTINGS = TrainSettings(
    num_tokens=400,
    batch_tokens=64,
    max_length=48,
    texts_per_sequence=1,
    checkpoint_steps=2,
    learning_rates=LearningRates(full=1e-3, lora=1e-3),
    lora=LoraSettings(rank=4, alpha=8),
)
LORA = SETTINGS.model_copy(update={"kl_weight": 0.1, "checkpoint_steps": 0})

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from active_reading.train import precision, trainer
from active_reading.train.settings import TrainSettings

whole_init = AcceleratorState.__init__
def init(self, *args, fsdp_plugin=None, **how):
    whole_init(self, *args, fsdp_plugin=fsdp_plugin, **how)
    if fsdp_plugin:
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
AcceleratorState.__init__ = init

class Died(Exception):
    pass

def die(step, model):
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in model.parameters())
    if step == 5:
        raise Died

def spoil(step, model):
    if step == 5:
        for p in model.parameters():
            p.data.fill_(float("nan"))

precision.compute_dtype = lambda: torch.float32
base, texts, full, lora, folder = json.loads(sys.argv[1])

def train(method, name, on_step=None):
    settings = TrainSettings(**(lora if method == "lora" else full))
    trainer.train_model(texts, base, method, settings, Path(folder) / name, lambda *_: None, on_step=on_step)

seen = []
try:
    train("full", "full", die)
except Died:
    train("full", "full", lambda step, _: seen.append(step))
assert seen == [5, 6, 7, 8], seen
train("lora", "lora")
try:
    train("full", "spoiled", spoil)
except ValueError as error:
    assert "at step 6" in str(error) and "checkpoint-4 is in" in str(error), error
else:
    raise AssertionError("nothing was noticed")
"""


def settings_of_the_file() -> dict[str, str]:
    """The environment that `accelerate launch` makes of docs/accelerate_fsdp.yaml."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(ROOT / "docs" / "accelerate_fsdp.yaml"), "script.py"]
    args, *_ = launch._validate_launch_command(launch.launch_command_parser().parse_args(given))
    found = prepare_multi_gpu_env(args)
    return {name: value for name, value in found.items() if name.startswith(("FSDP_", "ACCELERATE_"))}


def metrics(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_that_share_the_weights_learn_what_one_does(tiny_model, tmp_path):
    """Full finetuning that is interrupted, LoRA with the distance to its base, and a loss that becomes NaN."""
    (tmp_path / "script.py").write_text(SCRIPT)
    shared = settings_of_the_file()
    assert (shared["ACCELERATE_USE_FSDP"], shared["FSDP_VERSION"]) == ("true", "2")
    given = [str(tiny_model), TEXTS, SETTINGS.model_dump(), LORA.model_dump(), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        + [str(tmp_path / "script.py"), json.dumps(given)],
        env=os.environ | shared | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-12000:]
    weights = {"full": "model.safetensors", "lora": "adapter_model.safetensors"}
    for method, name in weights.items():
        alone, settings = tmp_path / "alone" / method, LORA if method == "lora" else SETTINGS
        train_model(TEXTS, str(tiny_model), method, settings, alone, lambda *_: None)
        expected, found = load_file(alone / name), load_file(tmp_path / method / name)
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].dtype == tensor.dtype
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-5)
        assert metrics(tmp_path / method) == pytest.approx(metrics(alone), abs=1e-4)
        files = {path.name for path in alone.iterdir()}
        assert {path.name for path in (tmp_path / method).iterdir()} == files, "no checkpoint is left"
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert config == json.loads((tmp_path / "alone" / "full" / "config.json").read_text())
    assert load_tokenizer(tmp_path / "full")("cat")["input_ids"]
    kept = load_model(tmp_path / "spoiled" / "last-good")
    assert all(torch.isfinite(p).all() for p in kept.parameters())


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("memory", {}, "train.methods has memory, which does not train under FSDP"),
        ("full", {"kl_weight": 0.5}, "train.kl_weight=0.5 with full finetuning keeps a whole second model"),
        ("full", {}, "FSDP is asked for, and `accelerate` has it only for several processes on GPUs"),
    ],
)
def test_what_fsdp_cannot_do_is_refused(tiny_model, tmp_path, monkeypatch, method: Any, changes, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    settings = SETTINGS.model_copy(update=changes)
    with pytest.raises(ValueError, match=message):
        train_model(TEXTS, str(tiny_model), method, settings, tmp_path, lambda *_: None)


def test_the_old_fsdp_is_refused():
    plugin = SimpleNamespace(fsdp_version=1)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    with pytest.raises(ValueError, match="fsdp_version: 1 is not supported"):
        loop.Loop._check_fsdp(SimpleNamespace(is_fsdp_enabled=True, accelerator=accelerator))  # type: ignore[arg-type]
