"""The server of a run: it outlives Ctrl-C until everything is told to it, and dies with a run that is killed."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from active_reading.flows.settings import load_study

HOLD = """
import httpx, time
from active_reading.flows.server import running_server
with running_server() as url:
    print(url, flush=True)
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        print(httpx.get(f"{url}/health", timeout=10).is_success, flush=True)
"""


def start_holder(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A process group of its own, as a terminal gives it, and the address of its server."""
    database = f"sqlite+aiosqlite:///{folder / 'prefect.db'}"
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "PREFECT_HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


def assert_gone(url: str) -> None:
    deadline = time.monotonic() + 30
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not answers(url)


def test_ctrl_c_reaches_the_run_before_its_server(tmp_path):
    process, url = start_holder(tmp_path)
    assert answers(url)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "True\n", "the server was there when the run said goodbye"
    assert process.returncode == 0
    assert_gone(url)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_run_leaves_no_server(tmp_path):
    process, url = start_holder(tmp_path)
    assert answers(url)
    process.kill()
    process.wait()
    assert_gone(url)


def test_a_scheduled_run_says_how_it_failed(tmp_path, monkeypatch, capsys):
    """Prefect puts its own handler on our logger: that one alone does not speak on the terminal."""
    from active_reading.flows.served import study_flow

    logger = logging.getLogger("active_reading")
    monkeypatch.setattr(logger, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    (tmp_path / "docs").mkdir()
    study = load_study(str(tmp_path / "docs"), [f"output={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match="has no document: documents are"):
        study_flow.fn(study.to_yaml())
    assert "run failed: corpus folder" in capsys.readouterr().out


def test_a_run_shows_its_summary_and_its_funnel_in_prefect(tmp_path, monkeypatch):
    from active_reading.flows.served import _publish_artifacts
    from active_reading.flows.server import running_server

    database = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    monkeypatch.setenv("PREFECT_API_URL", "")  # what the server sets is taken back
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
    (tmp_path / "summary.md").write_text("# Owls\n\nNothing was forgotten.\n")
    funnel = [{"template": "paraphrase", "planned": 3, "dropped": {"copy": 2, "too_short": 1}}]
    (tmp_path / "results.json").write_text(json.dumps({"templates": funnel}))
    with running_server() as url:
        _publish_artifacts(tmp_path / "index.html", "Owls & eels")
        found = {row["key"]: row for row in httpx.post(f"{url}/artifacts/filter", json={}, timeout=20).json()}
    assert found["owls-eels-summary"]["data"] == "# Owls\n\nNothing was forgotten.\n"
    rows = json.loads(found["owls-eels-generation"]["data"])
    assert rows == [{"template": "paraphrase", "planned": 3, "dropped": "copy 2, too_short 1"}]
