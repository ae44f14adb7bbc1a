"""A Prefect server for as long as a run or a schedule lasts, and the schedule itself."""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.worker import EventsWorker
from prefect.flows import EntrypointType
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from active_reading.flows.settings import Study

logger = logging.getLogger(__name__)
START_SECONDS = 120.0
PR_SET_PDEATHSIG = 1  # prctl(2)


def check_cron(cron: str) -> None:
    """Raises ValueError for a bad cron line."""
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise ValueError(f"--cron '{cron}' is not a cron schedule such as '0 2 * * *'") from error


def serve(flow: Any, study: Study, cron: str) -> None:
    """Serve `flow` on the cron schedule until interrupted.

    On the server that PREFECT_API_URL names, else on one started here for as long as this lasts.
    """
    with running_server() as url:
        logger.info("serving study '%s' on %s at '%s'; Ctrl-C stops", study.name, url, cron)
        flow.serve(
            name=study.name,
            cron=cron,
            parameters={"study": study.to_yaml()},
            entrypoint_type=EntrypointType.MODULE_PATH,
            limit=1,  # a run that is still going is not overtaken by the next
            print_starting_message=False,
        )


@contextmanager
def running_server() -> Iterator[str]:
    """The address of the server that PREFECT_API_URL names, else of one started here."""
    url = PREFECT_API_URL.value()
    if url:
        yield url
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    # A session of its own: Ctrl-C reaches us first, and the server outlives our farewell to it.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        _wait_until_ready(f"{url}/health", process)
        os.environ["PREFECT_API_URL"] = url  # for the processes that run the flow
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        APILogWorker.drain_all(timeout=5)  # what is still to be told must be told before the server goes
        EventsWorker.drain_all(timeout=5)
        process.terminate()
        process.wait(timeout=30)


def _end_with_parent() -> None:
    """In the server's process: end when we are killed and can no longer say so (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2).is_success:
                return
        time.sleep(0.5)
    raise ValueError(
        "the Prefect server did not start: start one with 'prefect server start' and set PREFECT_API_URL"
    )
