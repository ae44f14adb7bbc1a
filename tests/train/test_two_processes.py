"""Two processes learn what one does."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from training import METHODS, TEXTS, WARMED, read_metrics, settings_with, train

from active_reading.train.settings import LearningRates

ON_TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from active_reading.train import precision, trainer
from active_reading.train.settings import TrainSettings

precision.compute_dtype = lambda: torch.float32
base, texts, methods, settings, folder = json.loads(sys.argv[1])
settings, rank = TrainSettings(**settings), os.environ["RANK"]
for method in methods:
    place, states = Path(folder) / method, {}
    def on_step(step, model):
        states.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
    summary = trainer.train_model(texts, base, method, settings, place, lambda *_: None, on_step=on_step)
    torch.save({"summary": summary, "state": states}, Path(folder) / f"{method}-{rank}.pt")
"""


def test_two_processes_learn_what_one_does(tiny_model, tmp_path):
    """To 1e-5 in every weight; both end with the same ones, and the first writes the files."""
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
