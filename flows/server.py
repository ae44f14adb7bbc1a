"""Serve a study on a schedule with Prefect's own scheduler."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings

from active_reading.flows.settings import Study

logger = logging.getLogger(__name__)
START_SECONDS = 120.0


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
    with _server() as url, temporary_settings({PREFECT_API_URL: url}):
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
def _server() -> Iterator[str]:
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
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_ready(f"{url}/health", process)
        os.environ["PREFECT_API_URL"] = url  # for the processes that run the flow
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


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
