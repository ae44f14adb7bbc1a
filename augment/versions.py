"""Versions: finished data sets -> `v1`, `v2`, ... in one folder, each immutable.

A version is written beside the others under a name of its own and renamed into place when it is whole, so that a
killed run leaves none that is half written. A new one appears only when the rows differ from the newest one's. What
is said about the rows (the card, the licences, the study) may be said anew while the rows stay: then the newest
version gets the new words. Every row of every version stays as it was.
NOT covered: folders on storage without renames, such as S3.
"""

import json
import logging
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from active_reading.augment.card import table
from active_reading.augment.changes import CHANGES, compare_versions, count_changes, describe_changes
from active_reading.augment.export import count_rows
from active_reading.augment.identity import content_hash, file_hash
from active_reading.augment.turns import turn

logger = logging.getLogger(__name__)
MANIFEST = "version.json"
CHANGED = "changes.parquet"
CARD = "README.md"
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Version:
    """A whole version: `manifest` has `version`, `created`, `rows`, `tokens`, `changes`, `files` (bytes and hash
    of all that is immutable), `words` (the files that speak about it), and what its maker said of it."""

    folder: Path
    number: int
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return f"v{self.number}"

    @property
    def files(self) -> list[str]:
        """Paths of all that belongs to it; what someone laid beside them does not."""
        return sorted([*self.manifest["files"], *self.manifest["words"], MANIFEST])


def open_version(folder: Path) -> Version:
    """The version in a folder. Raises ValueError when it is none, or not whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = dict.fromkeys(manifest["words"]) | {name: of["bytes"] for name, of in manifest["files"].items()}
        number = int(manifest["version"])
    except FileNotFoundError:
        raise ValueError(f"{folder} is no version of a data set: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} cannot be read ({error!r}): publish the data set again") from None
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or size not in (None, path.stat().st_size):
            raise ValueError(
                f"{folder} is not whole: {name} is missing or cut; the next export makes a new version"
            )
    return Version(folder, number, manifest)


def check_files(version: Version) -> None:
    """Raises ValueError when a file of the version is not what it was."""
    for name, facts in version.manifest["files"].items():
        if file_hash(version.folder / name) != facts["hash"]:
            raise ValueError(f"{version.folder / name} was changed after {version.name} was published")


def list_versions(root: Path) -> list[Version]:
    """The whole versions in `root`, oldest first; the others are passed over with a warning."""
    versions = []
    for number in sorted(_numbers(root)):
        try:
            versions.append(open_version(root / f"v{number}"))
        except ValueError as error:
            logger.warning("data set: %s", error)
    return versions


def publish(root: Path, made: Path, files: list[str], facts: dict[str, Any]) -> Version:
    """Make `files` of the folder `made` the next version, unless the newest one has the same rows.

    `files` are paths below `made`: those below `data` hold the rows, in configs as export writes them, and the
    others are words about them. `facts` are JSON values for the manifest; rows that were written with another
    `facts["views"]` count as different. Two runs take turns.
    Raises ValueError when a run that took no turn has published the same number first.
    """
    root.mkdir(parents=True, exist_ok=True)
    with turn(lock_of(root), _wait):
        for left in root.glob(f"{PARTIAL}*"):  # of killed runs: whoever lives holds the lock
            shutil.rmtree(left)
        versions = list_versions(root)
        newest = versions[-1] if versions else None
        changes = _changes(newest, made, files, facts)
        if newest and changes is None:
            _say_anew(versions, made, files)
            return open_version(newest.folder)
        number = max(_numbers(root), default=0) + 1
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}v{number}-", dir=root))
        partial.chmod(0o755)
        _fill(partial, number, made, files, facts, changes)
        written = open_version(partial)
        _write(partial / CARD, _card(made, [*versions, written]))
        try:
            partial.rename(root / written.name)
        except OSError as error:  # the name is taken by a folder with files in it
            shutil.rmtree(partial)
            raise ValueError(
                f"another run published {root / written.name} at the same moment, without this one's rows: "
                "run the same command again"
            ) from error
        logger.info("data set: %s (%s)", written.name, describe_changes(written.manifest["changes"]))
        return open_version(root / written.name)


def lock_of(root: Path) -> Path:
    """What a run holds while it publishes: beside the folder, which holds nothing but versions."""
    return root.with_name(f".{root.name}.lock")


def _wait() -> None:
    logger.warning("data set: another run is publishing a version; waiting to come after it")


def _numbers(root: Path) -> set[int]:
    """Of whole versions and of others: a number is never given twice."""
    found = (re.fullmatch(r"v([1-9]\d*)", path.name) for path in root.glob("v*"))
    return {int(match[1]) for match in found if match}


def _changes(newest: Version | None, made: Path, files: list[str], facts: dict[str, Any]) -> pl.DataFrame | None:
    """What differs from the newest version; None when nothing does."""
    if newest is None:
        return None
    held = {name: of["hash"] for name, of in newest.manifest["files"].items() if name.startswith("data/")}
    same_views = newest.manifest.get("views") == facts.get("views")
    if same_views and held == {name: file_hash(made / name) for name in files if name.startswith("data/")}:
        return None
    changes = compare_versions(newest.folder, made)
    return None if same_views and changes.is_empty() else changes


def _fill(
    folder: Path, number: int, made: Path, files: list[str], facts: dict[str, Any], changes: pl.DataFrame | None
) -> None:
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made / name, target)
    immutable, words = [[name for name in files if name.startswith("data/") is part] for part in (True, False)]
    num_rows, tokens = count_rows(folder)
    counts = {**dict.fromkeys(CHANGES, 0), "added": num_rows}
    if changes is not None:
        counts = count_changes(changes)
        changes.write_parquet(folder / CHANGED)
        immutable.append(CHANGED)
    held = {name: {"bytes": (folder / name).stat().st_size, "hash": file_hash(folder / name)} for name in immutable}
    manifest = {
        **facts,
        "version": number,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": num_rows,
        "tokens": tokens,
        "changes": counts,
        "digest": content_hash(held, size=16),
        "files": held,
        "words": words,
    }
    for name in immutable:
        (folder / name).chmod(0o444)
    _write(folder / MANIFEST, _as_json(manifest))


def _say_anew(versions: list[Version], made: Path, files: list[str]) -> None:
    """Give the newest version the words of the same rows that were made now."""
    newest, words = versions[-1], [name for name in files if not name.startswith("data/")]
    before = set(newest.manifest["words"])
    texts = {name: _card(made, versions) if name == CARD else (made / name).read_bytes() for name in words}
    new = [name for name in words if name not in before or (newest.folder / name).read_bytes() != texts[name]]
    for name in new:
        _write(newest.folder / name, texts[name])
    if before != set(words):
        _write(newest.folder / MANIFEST, _as_json({**newest.manifest, "words": words}))
        for name in before - set(words):
            (newest.folder / name).unlink()
    told = f"{', '.join(new)} said anew" if new else "nothing changed"
    logger.info("data set: %s has the same rows; %s", newest.name, told)


def _card(made: Path, versions: list[Version]) -> bytes:
    """The card of the rows, and the history of the data set below it."""
    columns = ("version", "created", "rows", "tokens", *CHANGES)
    lines = [{**each.manifest, **each.manifest["changes"], "version": each.name} for each in versions]
    told = (
        f" `{CHANGED}` has the rows that differ from the version before: superseded is another text in an old "
        "one's place, relabelled the same text under other labels."
    )
    history = f"\n## Versions\n\nThis is {versions[-1].name}.{told if len(versions) > 1 else ''}\n\n"
    return (made / CARD).read_bytes() + (history + table(columns, lines) + "\n").encode()


def _as_json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Replace a file at once: a killed run leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{path.name}")
    partial.write_bytes(content)
    os.replace(partial, path)
