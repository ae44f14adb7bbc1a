"""The command line: one line and exit code 2 for every mistake of a user, and never a traceback."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors import SafetensorError

from active_reading.augment.ledger import Ledger
from active_reading.flows import cli
from active_reading.flows.pipeline import STAGES
from active_reading.flows.settings import Study

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run the command line in this process: exit code, standard output, standard error."""
    logger = logging.getLogger("active_reading")
    handlers, level = logger.handlers[:], logger.level
    before = dict(os.environ)

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["active-reading", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logger.handlers[:] = handlers
    logger.setLevel(level)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one document, and a current folder of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "heron.txt").write_text("Admiral was the tame heron of Orsella Vantrill of Pellamire.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "docs"


def assert_one_line(result: tuple[int, str, str], message: str) -> None:
    code, output, error = result
    assert code == 2
    assert re.search(message, error), error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in output + error


MISTAKES = {
    "missing folder": (["/no/such/docs"], "corpus folder /no/such/docs does not exist: give a folder"),
    "missing study": (["none.yaml"], "study file none.yaml does not exist"),
    "empty folder": (["empty"], "corpus folder .*empty has no document: documents are"),
    "wrong kind of file": (["table.exe"], "table.exe is not a document"),
    "typo in the study": (["typo.yaml"], "unknown key 'trian', did you mean 'train'?"),
    "bad value in the study": (["value.yaml"], "train.num_tokens=5: input should be greater than or equal to 100"),
    "broken YAML": (["broken.yaml"], "broken.yaml is not valid YAML"),
    "unknown template": (["docs", "generate.templates=[{template: nope}]"], "unknown template 'nope': use one of"),
    "missing template file": (
        ["docs", "generate.templates=[{template: x.j2}]"],
        "template file x.j2 does not exist",
    ),
    "bad override": (["docs", "train.seed"], "'train.seed' is not of the form section.key=value"),
    "unknown override": (["docs", "train.sed=1"], "unknown key 'train.sed', did you mean 'seed'?"),
    "missing questions": (["docs", "evaluate.questions=gold.jsonl"], "questions file gold.jsonl does not exist"),
    "missing model folder": (["docs", "--model", "/no/model"], "model '/no/model' does not exist: give a folder"),
    "model folder without model": (["docs", "--model", "empty"], "model folder .*empty has no config.json"),
    "layer that is not there": (["docs", "train.memory.layers=[9]"], "tiny has only layers 0 to 3"),
    "a home that nobody has": (["~no-such-user/docs"], "Could not determine home directory"),
    "negative seed": (["docs", "train.seed=-1"], "train.seed=-1: input should be greater than or equal to 0"),
    "longer than the context": (["docs", "train.max_length=99999"], "train.max_length=99999 exceeds the model's"),
    "too few generic texts": (["docs", "train.memory.background_texts=300"], "background_texts=300, and"),
    "foreign output folder": (["docs", "output=docs"], "output folder .*docs holds files"),
}


@pytest.mark.parametrize("command", [["ingest"], ["run"], ["schedule", "--cron", "0 2 * * *"]], ids=" ".join)
@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_exit_code_2(call, documents, tiny_model, monkeypatch, command, words, message):
    """`run` and `schedule` too: all of this is noticed before Prefect starts."""
    monkeypatch.setattr("active_reading.flows.pipeline.make_flow", lambda: pytest.fail("Prefect was started"))
    Path("empty").mkdir()
    Path("table.exe").write_text("a,b\n")
    Path("typo.yaml").write_text("corpus: {path: docs}\ntrian: {seed: 1}\n")
    Path("value.yaml").write_text("corpus: {path: docs}\ntrain: {num_tokens: 5}\n")
    Path("broken.yaml").write_text("corpus: [\n")
    model = [] if "--model" in words else ["--model", str(tiny_model)]
    result = call(*command, words[0], "train.memory.layers=[1]", *words[1:], *model)
    assert_one_line(result, re.escape(message).replace(r"\.\*", ".*"))
    assert not Path("runs").exists(), "nothing was begun"


def test_a_template_that_fails_on_some_text_is_one_line_with_its_file_and_line(call, documents, tiny_model):
    body = "{{ text }}\n{% if text|length > 20 %}{{ text.foo.bar }}{% endif %}"
    Path("own.j2").write_text(f"---\nversion: 1\nanswer: text\n---\n{body}")
    asked = ["generate.engine=echo", "generate.templates=[{template: own.j2}]", "train.methods=[full]"]
    message = r"own\.j2:6: does not render: 'str object' has no attribute 'foo'"
    for command in ("preview", "generate"):
        assert_one_line(call(command, "docs", "--model", tiny_model, *asked), message)


def test_a_document_with_spaces_and_options_anywhere(call, documents, tiny_model):
    (documents / "a b.md").write_text("# Two words\n\nA kettle of copper from Wexholm boils nine cups.\n")
    words = ("chunk.max_tokens=32", "output=my out", "train.methods=[full]")
    code, output, error = call("chunk", "--model", tiny_model, documents, *words)
    assert (code, error) == (0, "")
    folder = Path(re.search(r"^chunk: (/.*)$", output, re.MULTILINE)[1])
    assert folder.parent == Path("my out").absolute()
    assert (folder / "chunks.parquet").is_file()
    assert "chunk: done in" in output


def test_a_second_call_says_that_nothing_is_left_to_do(call, documents, tiny_model):
    words = ("chunk", documents, "train.methods=[full]", "--model", tiny_model)
    call(*words)
    _, output, _ = call(*words)
    assert "ingest: already done (ingest-" in output
    assert "chunk: already done (chunk-" in output
    assert "started" not in output


def test_settings_may_follow_an_option(call, documents, tiny_model):
    code, output, error = call("ingest", documents, "--model", tiny_model, "output=later", "train.methods=[full]")
    assert (code, error) == (0, "")
    assert str(Path("later").absolute()) in output


def test_an_unknown_option_is_refused_even_beside_settings(call, documents):
    code, _, error = call("ingest", documents, "--modle", "x", "output=later")
    assert code == 2
    assert "unrecognized arguments: --modle x" in error
    assert not Path("later").exists()


def test_an_empty_path_is_not_the_current_folder(call, documents):
    assert_one_line(call("ingest", ""), "the path of the study or folder is empty")


def test_a_full_disk_is_one_line_whatever_raised_it(call, documents, monkeypatch):
    def fail(*_: object) -> Path:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cli, "run_plain", fail)
    assert_one_line(call("report", documents), "No space left on device.*free some space")


def test_a_patch_is_made_shown_reverted_scaled_and_applied(call, documents, tiny_model):
    """From a trained memory: its own patch leads back to nothing learned, and forward again."""
    small = ["train.num_tokens=200", "train.batch_tokens=64", "train.max_length=64", "train.methods=[memory]"]
    memory = "{layers: [1], num_keys: 8, num_heads: 2, top_k: 2, top_t: 8, background_texts: 4, own_texts: 2}"
    words = [*small, "train.data=[naive]", f"train.memory={memory}", "output=out", "generate.engine=echo"]
    assert call("train", documents, "--model", tiny_model, *words)[0] == 0
    (trained_here,) = Path("out").glob("train-*")
    refused = call("patch", "revert", trained_here / "patch.safetensors", trained_here)
    assert_one_line(
        refused, "is a result of a run, .* copy the folder to another place, and revert the patch there"
    )
    adapter = Path(shutil.copytree(trained_here, "copy"))
    weights, patch = adapter / "memory.safetensors", adapter / "patch.safetensors"
    trained = weights.read_bytes()
    code, output, _ = call("patch", "show", patch)
    assert (code, list(json.loads(output)["rows"])) == (0, ["1"])
    assert call("patch", "revert", patch, adapter) == (0, "", "")
    assert weights.read_bytes() != trained
    assert_one_line(call("patch", "revert", patch, adapter), "patch.safetensors is not applied to")
    code, output, _ = call("patch", "scale", patch, "0.5", "--into", "half.safetensors")
    assert (code, json.loads(output)["rows"]) == (0, json.loads(call("patch", "show", patch)[1])["rows"])
    untaught = weights.read_bytes()
    assert call("patch", "apply", "half.safetensors", adapter) == (0, "", "")
    assert weights.read_bytes() not in (trained, untaught)
    assert call("patch", "revert", "half.safetensors", adapter) == (0, "", "")
    assert weights.read_bytes() == untaught
    assert_one_line(call("patch", "scale", patch, "0.5", "--into", patch), "is the patch to be scaled")
    assert_one_line(call("patch", "scale", patch, "7", "--into", "more.safetensors"), "a share of 7.0")
    assert call("patch", "apply", patch, adapter) == (0, "", "")
    assert weights.read_bytes() == trained
    assert_one_line(call("patch", "show", adapter / "none.safetensors"), "none.safetensors does not exist")
    assert_one_line(call("patch", "show", weights), "is no memory patch")


@pytest.mark.parametrize("error", [ValueError("bad\n  value"), OSError(28, "No space left on device")])
def test_errors_are_folded_into_one_line(call, documents, tiny_model, monkeypatch, error):
    def fail(*_: object) -> Path:
        raise error

    monkeypatch.setattr(cli, "run_plain", fail)
    assert_one_line(call("report", documents), "bad value|No space left on device")


def test_an_interrupt_is_exit_code_130_and_says_how_to_go_on(call, documents, monkeypatch):
    def interrupt(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_plain", interrupt)
    code, _, error = call("report", documents)
    assert code == 130
    assert error == "interrupted: what is finished is kept; run the same command again to go on\n"


BUSY = """
import sys, time
from active_reading.augment.engine import EchoEngine
from active_reading.flows.cli import main

answer, polls = EchoEngine.poll, []

def poll(self):
    polls.append(1)
    if len(polls) == 3:
        print("busy", flush=True)
        time.sleep(100)
    return answer(self)

EchoEngine.poll = poll
main()
"""


def test_sigterm_keeps_what_is_done_and_is_one_line_and_exit_code_143(documents, tiny_model):
    """A process of its own is told to end in the middle of its answers, before any of them was saved."""
    words = ["generate", str(documents), "output=out", "generate.engine=echo", f"model={tiny_model}"]
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, *words, "train.methods=[full]"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "busy\n" in iter(process.stdout.readline, "")
    process.terminate()
    output, error = process.communicate(timeout=300)
    assert process.returncode == 143
    assert error == "terminated: what is finished is kept; run the same command again to go on\n"
    assert "Traceback" not in output
    assert Ledger(Path("out/ledger")).read().height == 2


def test_our_own_mistakes_keep_their_traceback(call, documents, monkeypatch):
    def fail(*_: object) -> Path:
        raise RuntimeError("requests do not add up")

    monkeypatch.setattr(cli, "run_plain", fail)
    with pytest.raises(RuntimeError, match="do not add up"):
        call("report", documents)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_a_command_that_stops_there(call, documents, tmp_path, monkeypatch, stage):
    calls: list[tuple[Study, str]] = []
    monkeypatch.setattr(cli, "run_plain", lambda study, until: calls.append((study, until)) or tmp_path)
    monkeypatch.setattr(cli, "_show", lambda page: None)
    code, _, _ = call(stage, documents, "train.seed=4", "--model", "some/model")
    ((study, until),) = calls
    assert (code, until, study.train.seed, study.model) == (0, stage, 4, "some/model")


@pytest.mark.parametrize("model", ["null", "yes", "a: b", "12"])
def test_a_model_is_a_name_whatever_yaml_makes_of_it(call, documents, monkeypatch, model):
    studies: list[Study] = []
    monkeypatch.setattr(cli, "run_plain", lambda study, until: studies.append(study) or Path())
    call("ingest", documents, "--model", model)
    assert studies[0].model == model


def test_commands_for_data_sets_say_what_they_find_and_what_not(call, documents, tiny_model):
    """Two versions, of which the second lacks the long texts."""
    words = ("export", documents, "train.methods=[full]", "--model", tiny_model, "generate.engine=echo")
    words = (*words, "output=runs/birds")
    code, output, error = call(*words)
    assert (code, error) == (0, "")
    assert output.endswith(f"export: {Path('runs/birds/dataset/v1').absolute()}\n")
    assert call(*words, "filter.min_words=99")[0] == 0
    assert call("diff", "v1", "v2")[1].startswith("v1 -> v2: 0 added, ")
    code, output, _ = call("push", "birds", "--dry-run")
    assert (code, output.splitlines()[-1]) == (0, "nothing was sent")
    assert_one_line(call("show", "nothing"), "no row of .*dataset has an id that begins with 'nothing'")
    assert_one_line(call("diff", "v1", "v3"), "v3 is no version of a data set")


def test_a_bad_cron_line_is_named(call, documents, tiny_model):
    result = call("schedule", documents, "train.methods=[full]", "--model", tiny_model, "--cron", "every day")
    assert_one_line(result, "--cron 'every day' is not a cron schedule such as '0 2 \\* \\* \\*'")


def test_help_tells_every_command(call):
    code, output, _ = call("--help")
    assert code == 0
    for command in ("run", "demo", "schedule", "push", "diff", "show", *STAGES):
        assert re.search(rf"^ +{command}\s", output, re.MULTILINE), command


def test_an_unknown_command_is_exit_code_2(call):
    code, _, error = call("fly")
    assert code == 2
    assert "invalid choice: 'fly'" in error


def test_the_installed_command_tells_its_version_and_mistakes_without_a_traceback():
    command = Path(sys.executable).with_name("active-reading")
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"active-reading {version('active-reading')}\n"
    failed = subprocess.run([command, "run", "/no/such/docs"], capture_output=True, text=True)
    assert_one_line((failed.returncode, failed.stdout, failed.stderr), "corpus folder /no/such/docs does not exist")


def test_a_damaged_tokenizer_is_named(call, documents, tiny_model):
    shutil.copytree(tiny_model, "cut")
    Path("cut/tokenizer.json").write_text("{")
    result = call("ingest", documents, "--model", "cut", "train.memory.layers=[1]")
    assert_one_line(result, r"cut/tokenizer\.json is damaged \(.*\): get the model again")
