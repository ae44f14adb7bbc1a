"""The output folder of a study: claimed once, never taken from another program.

What claims it is the folder of locks: a `study.yaml` alone may be the user's own.
"""

import logging
from pathlib import Path

import yaml

from active_reading.augment.sources import LOCKS
from active_reading.flows.settings import Study, resolve_paths

logger = logging.getLogger(__name__)
STUDY_FILE = "study.yaml"
HERE = {"output": "."}  # wherever the folder is now


def open_output(study: Study) -> None:
    """Make or reopen the output folder and write the resolved study into it.

    A folder of another configuration is used with a warning: steps are addressed by content, so nothing
    in it is lost or mixed up. Raises ValueError when it holds files of another program, or cannot be
    written.
    """
    root = study.root
    marker = root / STUDY_FILE
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()) and not (root / LOCKS).is_dir():
            raise ValueError(
                f"output folder {root} holds files that no run of ours has written: "
                "choose an empty or new folder with output=FOLDER"
            )
        (root / LOCKS).mkdir(exist_ok=True)
        if marker.is_file() and (changed := _changed_keys(_read(marker), study.in_full() | HERE)):
            logger.warning(
                "output folder %s was last used with other settings (%s): what they do not touch is "
                "reused, and earlier results stay",
                root,
                ", ".join(changed[:5]),
            )
        marker.write_text(study.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"output folder {root} cannot be used ({error.strerror}): choose another with output=FOLDER"
        ) from error


def _read(marker: Path) -> dict[str, object]:
    try:
        values = yaml.safe_load(marker.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    resolve_paths(values, Path.cwd())  # older versions wrote them as they were given
    return values | HERE


def _changed_keys(before: dict[str, object], now: dict[str, object], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key}")
    return changed
