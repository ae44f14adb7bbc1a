"""Several engines in processes of their own: every request answered once, and a dead engine noticed."""

import os
import time
from collections import Counter

import pytest

from active_reading.augment.engine import Completion, EchoEngine, Sampling
from active_reading.augment.generate import device_groups
from active_reading.augment.parallel import RUN, ParallelEngine
from active_reading.augment.settings import GenerateSettings

SAMPLING = Sampling(0.7, 1.0, 32, 7)


class Telling(EchoEngine):
    """Answers with the devices that it was given, and dies where it is asked to."""

    def poll(self) -> list[Completion]:
        if self._waiting and self._waiting[0][1][0]["content"] == "die":
            os._exit(1)
        time.sleep(0.001)
        devices = os.environ["CUDA_VISIBLE_DEVICES"]
        return [Completion(done.request_id, devices, "stop", 1, 1) for done in super().poll()]


class Broken(EchoEngine):
    def __init__(self) -> None:
        raise ValueError("no room for the weights")


def poll_for_ever(engine: ParallelEngine) -> None:
    while True:
        engine.poll()


def test_requests_go_to_all_engines_in_runs_and_each_is_answered_once():
    engine = ParallelEngine(Telling, (), ["0,1", "2,3"])
    try:
        for number in range(6 * RUN):
            engine.submit(f"r{number}", [{"role": "user", "content": "The owl."}], SAMPLING)
        done: list[Completion] = []
        while engine.num_running:
            done += engine.poll()
        devices = {completion.request_id: completion.text for completion in done}
        assert sorted(devices) == sorted(f"r{number}" for number in range(6 * RUN))
        assert len(done) == len(devices)
        for start in range(0, 6 * RUN, RUN):
            assert len({devices[f"r{number}"] for number in range(start, start + RUN)}) == 1
        assert Counter(devices.values()) == {"0,1": 3 * RUN, "2,3": 3 * RUN}
        engine.submit("last", [{"role": "user", "content": "die"}], SAMPLING)
        with pytest.raises(RuntimeError, match="engine [12] of 2 died"):
            poll_for_ever(engine)
    finally:
        engine.close()
    assert not any(process.is_alive() for process in engine._processes)


class Failing(EchoEngine):
    def poll(self) -> list[Completion]:
        if self.num_running:
            raise ValueError("the device has gone")
        return []


def test_an_engine_that_failed_before_the_next_request_says_why():
    engine = ParallelEngine(Failing, (), ["0"])
    try:
        engine.submit("first", [{"role": "user", "content": "owl"}], SAMPLING)
        engine._processes[0].join(30)
        with pytest.raises(RuntimeError, match="an engine on devices '0' failed: ValueError: the device has gone"):
            engine.submit("second", [{"role": "user", "content": "owl"}], SAMPLING)
    finally:
        engine.close()


def test_an_engine_that_does_not_start_says_why():
    with pytest.raises(RuntimeError, match="an engine on devices '0' failed: ValueError: no room for the weights"):
        ParallelEngine(Broken, (), ["0"])


def test_each_engine_gets_gpus_of_its_own_and_too_few_are_refused(monkeypatch):
    settings = GenerateSettings(data_parallel=2, tensor_parallel=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert device_groups(settings) == ["4,5", "6,7"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with pytest.raises(ValueError, match="data_parallel=2 times tensor_parallel=2 needs 4 GPUs, and there are 3"):
        device_groups(settings)
