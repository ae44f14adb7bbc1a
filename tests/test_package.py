"""The wheel is complete and works far away from the checkout.

Covers pyproject.toml: the folder mapping, the package data, the version, the console script. No network.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["augment", "eval", "flows", "prompts", "train"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]


def normalized(requirement: str) -> str:
    """The name alone, as package indexes compare it: `PyYAML>=6` becomes `pyyaml`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of `command`; its standard error becomes the message of the failure."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: a build folder left in the checkout could bring back deleted files."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", tree, cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new venv that holds the wheel, and sees our dependencies but not the editable install beside them.

    The dependencies come from a .pth file. Python runs no .pth files of a folder that it got from one, and
    such a file is how an editable install is found. Ours is written last, so that pip sees an empty venv.
    """
    venv = tmp_path_factory.mktemp("far away") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python"]
    run(*pip, "install", "-qq", "--no-deps", "--no-index", wheel, cwd=venv)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def test_every_imported_library_is_declared():
    imported = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    libraries = imported - sys.stdlib_module_names - {"active_reading", "vllm", "lm_eval"}  # the two are extras
    homes = packages_distributions()
    declared = {normalized(requirement) for requirement in PROJECT["dependencies"]}
    assert {"polars", "torch"} <= libraries
    for library in libraries:
        assert declared & {normalized(home) for home in homes.get(library, [])}, f"{library} is not declared"


def test_the_wheel_holds_one_package_with_all_its_files(wheel):
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    metadata = {name for name in names if name.parts[0] == f"active_reading-{VERSION}.dist-info"}
    assert {name.parts[0] for name in names - metadata} == {"active_reading"}
    assert "LICENSE" in {name.name for name in metadata}

    files = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    ours = {path.relative_to(ROOT) for path in files if path.suffix != ".pyc" and path.name[0] != "."}
    assert {".py", ".j2", ".md", ".txt", ".jsonl"} <= {path.suffix for path in ours}
    assert names - metadata == {"active_reading" / path for path in ours}


def test_the_installed_package_imports_from_its_own_place(installed, tmp_path):
    code = "import active_reading.{0} as module; print(module.__file__)"
    for folder in FOLDERS:
        origin = Path(run(installed / "bin" / "python", "-c", code.format(folder), cwd=tmp_path).strip())
        assert origin.is_relative_to(installed), f"{folder} comes from {origin}"


def test_the_bare_folder_names_are_not_installed(installed, tmp_path):
    code = f"from importlib.util import find_spec; print([n for n in {FOLDERS} if find_spec(n)])"
    assert run(installed / "bin" / "python", "-c", code, cwd=tmp_path).strip() == "[]"


def test_the_installed_command_answers_from_any_folder(installed, tmp_path):
    command = installed / "bin" / "active-reading"
    assert "demo" in run(command, "--help", cwd=tmp_path)
    assert VERSION in run(command, "--version", cwd=tmp_path)
