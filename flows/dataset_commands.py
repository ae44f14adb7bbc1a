"""The commands for finished data sets: `push`, `diff` and `show`.

A data set is named by its study (a folder below `runs/`), or by the study's output folder; a version by `v2` or by
its own folder. No version named means the newest, no study the only one below `runs/`.
"""

import argparse
import re
from pathlib import Path

from active_reading.augment.changes import compare_versions, count_changes, describe_changes
from active_reading.augment.hub import describe_upload, plan_upload, push
from active_reading.augment.provenance import Origin, find_origin
from active_reading.augment.versions import MANIFEST, list_versions, open_version
from active_reading.flows.stages import DATASET

RUNS = Path("runs")
COMMANDS = ("push", "diff", "show")
SHOWN = 20


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands to the program's."""
    upload = commands.add_parser("push", help="upload a version of the data set to the Hugging Face hub")
    upload.add_argument("study", metavar="NAME", help="name or output folder of the study, or a version's folder")
    upload.add_argument("--version", dest="which", metavar="vN", help="the version; the newest when left out")
    upload.add_argument("--repo", metavar="[OWNER/]REPOSITORY", help="where to; the study's name when left out")
    upload.add_argument("--public", action="store_true", help="a new repository is for everyone to see")
    upload.add_argument("--dry-run", action="store_true", help="show exactly what would go up, and send nothing")
    diff = commands.add_parser("diff", help="what changed between two versions of the data set")
    diff.add_argument("old", metavar="OLD", help="vN, or the version's folder")
    diff.add_argument("new", metavar="NEW", help="vN, or the version's folder")
    show = commands.add_parser("show", help="a row of the data set, its prompt, its chunk and its document")
    show.add_argument("id", metavar="ID", help="the row's id, or the beginning of it")
    for command in (diff, show):
        command.add_argument("--study", default="", metavar="NAME", help="name or output folder of the study")


def run_command(arguments: argparse.Namespace) -> str:
    """What the command has to say. Raises ValueError for whatever it does not find."""
    if arguments.command == "push":
        return _push(arguments)
    return _diff(arguments) if arguments.command == "diff" else _show(arguments)


def _push(arguments: argparse.Namespace) -> str:
    folder = Path(arguments.study)
    if (folder / MANIFEST).is_file() and not arguments.which:
        version = open_version(folder)
    else:
        version = open_version(_version_folder(arguments.which or "", arguments.study))
    name = arguments.repo or re.sub(r"[^\w.-]+", "-", version.manifest["study"])
    upload = plan_upload(version, name, private=not arguments.public)
    if arguments.dry_run:
        return f"{describe_upload(upload)}\nnothing was sent"
    return f"{describe_upload(upload)}\npushed: {push(upload)}"


def _diff(arguments: argparse.Namespace) -> str:
    old, new = (open_version(_version_folder(name, arguments.study)) for name in (arguments.old, arguments.new))
    changes = compare_versions(old.folder, new.folder)
    lines = [f"{old.name} -> {new.name}: {describe_changes(count_changes(changes))}"]
    for change, rows in changes.group_by("change", maintain_order=True):
        lines.append(f"\n{change[0]}:")
        for row in rows.head(SHOWN).iter_rows(named=True):
            ids = " <- ".join(name for name in dict.fromkeys((row["id"], row["old_id"])) if name)
            strategy = f", {row['strategy']}" if row["strategy"] else ""
            lines.append(f"  {ids}  {row['source']} ({row['template']}{strategy})")
        if rows.height > SHOWN:
            lines.append(f"  and {rows.height - SHOWN:,} more")
    return "\n".join(lines)


def _show(arguments: argparse.Namespace) -> str:
    root = _dataset_folder(arguments.study)
    documents = sorted(root.parent.glob("ingest-*/documents.parquet"))
    versions = list_versions(root)
    for version in reversed(versions):
        if origin := find_origin(version, arguments.id, documents):
            return _describe(origin)
    raise ValueError(f"no row of {root} has an id that begins with '{arguments.id}'")


def _describe(origin: Origin) -> str:
    row, request = origin.row, origin.request
    strategy = f", strategy: {row['strategy']}" if row["strategy"] else ""
    parts = [
        (f"row {row['id']} of {origin.version.name} ({row['template']}, {row['num_tokens']} tokens)", row["text"])
    ]
    if request:
        drawn = request.sampling
        told = f"template {row['template']} ({request.template.hash}){strategy}, replicate {request.replicate}"
        sampling = f"temperature {drawn.temperature}, top_p {drawn.top_p}, seed {drawn.seed}"
        turns = request.template.messages(**request.values)
        asked = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in turns)
        parts.append((f"prompt to {origin.model.name} ({origin.model.revision}): {told}, {sampling}", asked))
    elif row["request_id"]:
        why = "this version's templates do not make it"
        if origin.document is None:
            why += ", or tell the headings of a document that is not kept here"
        parts.append((f"prompt {row['request_id']}: not found: {why}", ""))
    span = f"{row['source']}, characters {row['start']} to {row['end']}"
    parts.append((f"chunk {row['chunk_id']}: {span}", origin.chunk or "its text is no longer there"))
    length = f", {len(origin.document)} characters" if origin.document is not None else ", not kept here"
    parts.append((f"document {row['document_id']}: {row['title']} ({row['source']}{length})", ""))
    return "\n\n".join(f"{heading}\n{_indented(text)}".rstrip() for heading, text in parts)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))


def _version_folder(name: str, study: str) -> Path:
    if not re.fullmatch(r"(v[1-9]\d*)?", name):
        return Path(name)
    root = _dataset_folder(study)
    if name:
        return root / name
    versions = list_versions(root)
    if not versions:
        raise ValueError(f"{root} has no whole version: make one with `active-reading export`")
    return versions[-1].folder


def _dataset_folder(study: str) -> Path:
    """The folder of a study's versions."""
    if study:
        for folder in (Path(study), RUNS / study):
            if (folder / DATASET).is_dir():
                return folder / DATASET
        raise ValueError(
            f"no data set of a study '{study}': give its name below {RUNS}/, or its output folder "
            f"(with a folder '{DATASET}' in it)"
        )
    found = sorted(RUNS.glob(f"*/{DATASET}"))
    if len(found) != 1:
        names = ", ".join(path.parent.name for path in found) or "none"
        raise ValueError(f"which study? Name it with --study NAME (below {RUNS}/: {names})")
    return found[0]
