"""Steps: a result lives in a folder named by what it was made from, and is made once.

Folder = step name + hash of version, configuration and inputs. `manifest.json` is written last; a folder
without it, or with a missing or cut file, is made again. The digest in the manifest is the hash of the
files themselves: later steps depend on it, so a result that was made again differently is noticed.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from active_reading.augment.identity import content_hash, file_hash
from active_reading.augment.sources import LOCKS
from active_reading.augment.turns import turn

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Step:
    """A finished step."""

    folder: Path
    digest: str
    seconds: float
    summary: dict[str, Any]


def run_step(
    root: Path,
    name: str,
    version: int,
    config: dict[str, Any],
    inputs: dict[str, str],
    build: Callable[[Path], dict[str, Any] | None],
    resumable: bool = False,
    is_final: Callable[[dict[str, Any]], bool] = lambda summary: True,
) -> Step:
    """Return the finished step, building it when needed.

    `inputs` are content hashes. `build` fills the folder and returns a summary for the manifest; when it is
    `resumable` it finds what an interrupted build left there. Two processes that want the same step take
    turns: the second finds it finished. A result whose summary is not `is_final` serves this run only: it
    gets no manifest, and the next run builds it again.
    """
    folder = root / f"{name}-{content_hash(name, version, config, inputs, size=6)}"
    if step := read_step(folder):
        logger.info("%s: already done (%s)", name, folder.name)
        return step
    locks = root / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    waits = partial(logger.info, "%s: another run is making the same result; waiting for it", name)
    with turn(locks / f"{folder.name}.lock", waits):
        if step := read_step(folder):
            return step
        if folder.exists() and not (resumable and not (folder / MANIFEST).exists()):
            logger.info("%s: an unfinished or damaged result is made again", name)
            shutil.rmtree(folder)
        folder.mkdir(exist_ok=True)
        logger.info("%s: started", name)
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        began = time.monotonic()
        summary = build(folder) or {}
        seconds = time.monotonic() - began
        final = is_final(summary)
        step = _finish(folder, name, inputs, seconds, summary, final)
        logger.info("%s: %s %.0f s", name, "done in" if final else "left unfinished after", seconds)
    return step


def read_step(folder: Path) -> Step | None:
    """The step in `folder`, or None when it is not finished or its files are not all there."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in manifest["files"].items())
        step = Step(folder, manifest["digest"], manifest["seconds"], manifest["summary"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return step if whole else None


def _finish(
    folder: Path, name: str, inputs: dict[str, str], seconds: float, summary: dict[str, Any], final: bool
) -> Step:
    partial = folder / f"{MANIFEST}.partial"
    partial.unlink(missing_ok=True)  # of a run that was killed as it finished: no file of the step
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): file_hash(path) for path in paths}
    manifest = {
        "step": name,
        "inputs": inputs,
        "seconds": round(seconds, 1),
        "summary": summary,
        "files": {file: (folder / file).stat().st_size for file in hashes},
        "digest": content_hash(hashes, {**summary, "seconds": None}, size=16),  # time is not content
    }
    if final:
        partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / MANIFEST)
    return Step(folder, str(manifest["digest"]), round(seconds, 1), summary)
