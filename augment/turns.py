"""Runs that take turns: whoever comes second says so and waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def turn(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock file `path`; `on_wait` is called when another holds it. It is free when that one is killed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
