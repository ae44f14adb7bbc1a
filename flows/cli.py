"""The command line: `active-reading run CONFIG_OR_PATH [section.key=value ...]` and its stages.

A user's mistake is one line on standard error and exit code 2; Ctrl-C is exit code 130 and SIGTERM 143, and
neither loses what is finished.
"""

import argparse
import json
import logging
import os
import select
import signal
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from active_reading.augment.sources import LOCKS
from active_reading.flows import dataset_commands
from active_reading.flows.key_list import list_keys
from active_reading.flows.pipeline import STAGES, run_flow, run_plain, schedule
from active_reading.flows.settings import demo_study, load_study

HELP = {
    "ingest": "read the documents",
    "chunk": "cut them into chunks",
    "questions": "make questions on them, where the study asks for it",
    "generate": "have the model study every chunk",
    "filter": "drop texts that are unfaithful or broken",
    "judge": "have a model check what is left, where the study asks for it",
    "dedupe": "drop texts that repeat others",
    "decontaminate": "list texts that hold what the evaluation asks",
    "export": "write the data set",
    "train": "train every method on every data",
    "evaluate": "measure what was learned and lost",
    "grade": "have a model grade the answers, where the study asks for it",
    "report": "write the report (the whole job without Prefect)",
}


TARGET = "a study in YAML; or documents: a folder, a file, a glob, a URL, or hf:NAME"
MODEL = "generator and student: a Hugging Face id, a folder, or SmolLM2-135M-Instruct, which ships"
KEPT = "what is finished is kept; run the same command again to go on"


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whatever runs ends as it does at Ctrl-C."""


def main() -> None:
    """Entry point of the console script."""
    arguments = _parse(sys.argv[1:])
    _set_up_output()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _run(arguments)
        if sys.stdout:  # none where it was closed before
            sys.stdout.flush()
    except Terminated:
        _leave(f"terminated: {KEPT}", 143)
    except KeyboardInterrupt:
        _leave(f"interrupted: {KEPT}", 130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(141) from None
        disk_full = "No space left on device" in str(error)  # other libraries' errors of it are of many types
        no_such_user = "home directory" in str(error)  # of ~NAME
        is_theirs = disk_full or no_such_user or isinstance(error, ValueError | OSError)
        if os.environ.get("ACTIVE_READING_TRACEBACK") or not is_theirs:
            raise
        cure = ": free some space and run the same command again; what is finished is kept" if disk_full else ""
        _leave(f"error: {' '.join(str(error).split())}{cure}", 2)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "patch":
        _patch(arguments)
        return
    if arguments.command in dataset_commands.COMMANDS:
        print(dataset_commands.run_command(arguments))
        return
    if arguments.command == "compare":
        from active_reading.flows.compare import compare_runs

        print(compare_runs(arguments.runs, arguments.into, arguments.sequence))
        print(f"\nComparison: {arguments.into / 'comparison.html'}")
        return
    if arguments.command == "settings":
        print(list_keys(arguments.below))
        return
    if arguments.command == "demo":
        study = demo_study(_overrides(arguments))
    else:
        study = load_study(arguments.target, _overrides(arguments))
    if arguments.command == "schedule":
        schedule(study, arguments.cron)
    elif arguments.command == "preview":
        from active_reading.flows.preview import preview

        for block in preview(study):
            print(block)
    elif arguments.command == "estimate":
        from active_reading.flows.estimate import estimate

        print(estimate(study, arguments.sample))
    elif arguments.command in ("run", "demo"):
        _show(run_flow(study))
    else:
        place = run_plain(study, arguments.command)
        if arguments.command == "report":
            _show(place)
        else:
            print(f"{arguments.command}: {place}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="active-reading",
        description="Teach a language model a body of documents, and measure what it forgets.",
    )
    parser.add_argument("--version", action="version", version=f"active-reading {version('active-reading')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the whole job as a Prefect flow, reusing what is finished")
    served = commands.add_parser("schedule", help="run the whole job on a cron schedule, until interrupted")
    served.add_argument("--cron", required=True, help='when to run, such as "0 2 * * *"')
    actions = "create, show, apply, revert, scale, merge"
    _add_patch(commands.add_parser("patch", help=f"what a memory learned, as a file: {actions}"))
    dataset_commands.add_commands(commands)
    compare = commands.add_parser("compare", help="put finished runs side by side")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folder of a run")
    compare.add_argument("--into", type=Path, default=Path("comparison"), help="folder for the comparison")
    compare.add_argument(
        "--sequence", action="store_true", help="corpora learned in this order, one a kind of question"
    )
    shown = commands.add_parser("preview", help="show five filled prompts and their answers; writes nothing")
    estimated = commands.add_parser("estimate", help="ask a sample; say what the rest will take and cost")
    estimated.add_argument("--sample", type=_count, default=8, help="chunks to ask (default 8)")
    keys = commands.add_parser("settings", help="list every key of a study, its default and what it does")
    keys.add_argument("below", nargs="?", default="", metavar="SECTION", help="such as train or train.memory")
    demo = commands.add_parser("demo", help="run the study that ships with the package")
    stages = [commands.add_parser(stage, help=f"up to here: {HELP[stage]}") for stage in STAGES]
    for command in (run, served, shown, estimated, *stages):
        command.add_argument("target", metavar="CONFIG_OR_PATH", help=TARGET)
    for command in (run, served, shown, estimated, demo, *stages):
        command.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that win")
        command.add_argument("--model", help=MODEL)
    return parser


def _parse(words: list[str]) -> argparse.Namespace:
    """The command line's words; settings may also stand after an option."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    settings = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(settings) < len(rest) or (settings and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if settings:
        arguments.overrides = [*arguments.overrides, *settings]
    return arguments


def _add_patch(patch: argparse.ArgumentParser) -> None:
    actions = patch.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="write what a training changed to a file")
    create.add_argument("--before", type=Path, required=True, help="memory adapter before the training")
    create.add_argument("--after", type=Path, required=True, help="memory adapter after it")
    create.add_argument("--provenance", default="", help="a line on where it comes from")
    create.add_argument("patch", type=Path, help="file to write")
    show = actions.add_parser("show", help="say what a patch holds")
    show.add_argument("patch", type=Path)
    for name, words in (("apply", "bring an adapter to what the patch made"), ("revert", "undo it, byte for byte")):
        move = actions.add_parser(name, help=words)
        move.add_argument("patch", type=Path)
        move.add_argument("adapter", type=Path, help="memory adapter folder, changed in place")
    scale = actions.add_parser("scale", help="a weaker patch: less is known, and less is forgotten")
    scale.add_argument("patch", type=Path)
    scale.add_argument("share", type=float, help="how far its rows go, between 0 and 1")
    scale.add_argument("--into", type=Path, required=True, help="file to write")
    merge = actions.add_parser("merge", help="one patch of several that move different rows")
    merge.add_argument("patches", type=Path, nargs="+", metavar="PATCH")
    merge.add_argument("--into", type=Path, required=True, help="file to write")


def _patch(arguments: argparse.Namespace) -> None:
    from active_reading.train import patch

    if arguments.action in ("apply", "revert") and (arguments.adapter.absolute().parent / LOCKS).is_dir():
        raise ValueError(
            f"{arguments.adapter} is a result of a run, which takes it for what it trained: copy the folder to "
            f"another place, and {arguments.action} the patch there"
        )
    if arguments.action == "apply":
        patch.apply_patch(arguments.patch, arguments.adapter)
    elif arguments.action == "revert":
        patch.revert_patch(arguments.patch, arguments.adapter)
    else:
        path = arguments.into if "into" in arguments else arguments.patch
        if arguments.action == "create":
            patch.create_patch(arguments.before, arguments.after, path, arguments.provenance)
        elif arguments.action == "scale":
            patch.scale_patch(arguments.patch, arguments.share, path)
        elif arguments.action == "merge":
            patch.merge_patches(arguments.patches, path)
        print(json.dumps(patch.describe_patch(path), indent=2))


def _count(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of at least 1")
    return int(word)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    model = [f"model={json.dumps(arguments.model)}"] if arguments.model else []
    return [*arguments.overrides, *model]


def _show(page: Path) -> None:
    from active_reading.eval.summary import summary_table

    results = json.loads(page.with_name("results.json").read_text(encoding="utf-8"))
    print(f"\n{summary_table(results)}\n\nReport: {page}")


def _set_up_output() -> None:
    """Our own lines on standard output; other libraries speak only of errors."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Line())
    logger = logging.getLogger("active_reading")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a reader that has ended is told of once, at the end
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()


def _nobody_reads() -> bool:
    """Whether what reads our output, such as `head`, has ended; nothing more is written to it then."""
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    broken = any(event & select.POLLERR for _, event in pipe.poll(0))
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return broken


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _leave(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
