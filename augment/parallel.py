"""Several engines on one machine, each in a process of its own with GPUs of its own (data parallel).

Requests of one chunk come one after the other, so each engine is given a run of them: its prefix cache then holds
what the next ones share.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from active_reading.augment.engine import Completion, Engine, Messages, Sampling

RUN = 16  # requests in a row to one engine
POLL_SECONDS = 0.1
START_SECONDS = 1800.0


class ParallelEngine:
    """Feeds one engine per group of devices; raises RuntimeError when one of them dies."""

    def __init__(self, make: Callable[..., Engine], arguments: tuple[Any, ...], devices: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.num_running = 0
        self._pipes: list[Connection] = []
        self._processes = []
        for group in devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make, arguments, group), daemon=False)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._running = [0] * len(devices)
        self._now, self._left = 0, 0
        try:
            for number in range(len(devices)):
                self._receive(number)
        except BaseException:
            self.close()
            raise

    def submit(self, request_id: str, messages: Messages, sampling: Sampling) -> None:
        if not self._left:
            self._now, self._left = min(range(len(self._running)), key=self._running.__getitem__), RUN
        self._left -= 1
        try:
            self._pipes[self._now].send((request_id, messages, sampling))
        except OSError:  # it has died: its reason comes after the answers that it still gave
            while True:
                self._receive(self._now)
        self._running[self._now] += 1
        self.num_running += 1

    def poll(self) -> list[Completion]:
        done: list[Completion] = []
        for pipe in wait(self._pipes, timeout=POLL_SECONDS):
            number = self._pipes.index(pipe)  # type: ignore[arg-type]
            completions = self._receive(number)
            self._running[number] -= len(completions)
            done += completions
        self.num_running -= len(done)
        return done

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()  # its engine stops
        for process in self._processes:
            process.join(30)
            if process.is_alive():
                process.kill()

    def _receive(self, number: int) -> Any:
        try:
            received = self._pipes[number].recv()
        except (EOFError, OSError):
            raise RuntimeError(f"engine {number + 1} of {len(self._pipes)} died") from None
        if isinstance(received, Exception):
            raise received
        return received


def _work(pipe: Connection, make: Callable[..., Engine], arguments: tuple[Any, ...], devices: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = devices
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # this is a process of its own already
    try:
        engine = make(*arguments)
        pipe.send([])
        while True:
            while pipe.poll(0 if engine.num_running else None):
                engine.submit(*pipe.recv())
            if done := engine.poll():
                pipe.send(done)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # nobody listens any more
    except Exception as error:
        pipe.send(RuntimeError(f"an engine on devices '{devices}' failed: {type(error).__name__}: {error}"))
