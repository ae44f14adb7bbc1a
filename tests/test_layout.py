"""The layout holds: imports between our folders run downward only, and no name can be taken for another.

Reads the source with ast and imports none of it.
"""

import ast
import itertools
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "active_reading"

# folder -> our folders that it may import besides itself
MAY_IMPORT = {
    "prompts": set(),
    "augment": {"prompts"},
    "train": set(),
    "eval": {"prompts", "train"},
    "flows": {"prompts", "augment", "train", "eval"},
    "tests": {"prompts", "augment", "train", "eval", "flows"},
}
FOLDERS = [folder for folder in MAY_IMPORT if folder != "tests"]
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
# Prefect puts flows/ first on sys.path: a file there must hide no library, installed here or not.
LIBRARIES = {"datasets", "prefect", "prefect_ray", "ray", "vllm", "torch", "transformers", "peft", "polars"}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(source: str, package: str) -> set[str]:
    """Every module that `source` imports anywhere, in full; its relative imports start from `package`."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = package.split(".")
                start = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [start])])
            modules.update(f"{start}.{alias.name}" for alias in node.names)
    return modules


def complaints(source: str, folder: str, package: str) -> list[str]:
    """What is wrong with the imports of one file of `folder`."""
    wrong = []
    for module in sorted(imported_modules(source, package)):
        first, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if first in MAY_IMPORT and first != "tests":
            wrong.append(f"{module}: write {PACKAGE}.{module}")
        elif first == PACKAGE and target != folder and target not in MAY_IMPORT[folder]:
            wrong.append(f"{module}: {folder} must not import it")
    return wrong


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_run_downward_and_by_the_full_name(folder):
    wrong = []
    for path in python_files(folder):
        package = ".".join([PACKAGE, *path.relative_to(ROOT).parent.parts])
        wrong += [f"{path.relative_to(ROOT)}: {text}" for text in complaints(path.read_text(), folder, package)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("prompts", "import active_reading.augment.chunks"),
        ("augment", "from active_reading import train"),
        ("augment", "from active_reading.train.memory import MemoryConfig"),
        ("train", "def later():\n    from active_reading.prompts import render"),
        ("eval", "from ..augment import chunks"),
        ("eval", "from .. import flows"),
        ("augment", "import augment.chunks"),
        ("flows", "from eval import report"),
        ("flows", "import eval"),
        ("tests", "from train.memory import MemoryConfig"),
    ],
)
def test_a_wrong_import_is_noticed(folder, source):
    assert len(complaints(source, folder, f"{PACKAGE}.{folder}")) == 1


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("prompts", "from . import render"),
        ("augment", "from active_reading.prompts import render"),
        ("eval", "import active_reading.train.memory, polars"),
        ("flows", "from ..augment.chunks import chunk"),
        ("train", "import evaluate, training, transformers.trainer"),
    ],
)
def test_a_right_import_passes(folder, source):
    assert complaints(source, folder, f"{PACKAGE}.{folder}") == []


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_every_module_name_says_something(folder):
    parts = {part for path in python_files(folder) for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & VAGUE_NAMES


def test_no_file_in_flows_is_named_like_a_library():
    # Libraries are looked for where they live: never in the checkout itself, which .venv may be a part of.
    outside = [p for p in sys.path if "site-packages" in p or (p and not Path(p).resolve().is_relative_to(ROOT))]
    stems = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__", "__main__"}
    taken = {stem for stem in stems if PathFinder.find_spec(stem, outside)} | stems & sys.stdlib_module_names
    assert not (taken | stems & LIBRARIES)
    assert PathFinder.find_spec("pytest", outside), "the check itself finds libraries"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_of_the_readme_names_every_module_and_no_other(folder):
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n{folder}/ ")[2]
    lines = itertools.takewhile(lambda line: line.startswith(" ") or not line[:1].isalpha(), tree.split("\n")[1:])
    named = {word.rstrip(",") for line in lines for word in line.split() if word.rstrip(",").endswith(".py")}
    assert named == {path.name for path in python_files(folder)} - {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_a_docstring(folder):
    files = python_files(folder)
    assert files, f"{folder}/ holds no Python file"
    trees = {path: ast.parse(path.read_text()) for path in files}
    bare = [str(path.relative_to(ROOT)) for path, tree in trees.items() if not ast.get_docstring(tree)]
    assert not bare
