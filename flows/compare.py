"""Several finished runs side by side: one table of all their models, and corpora learned one after another.

In:  output folders, each with the `results.json` of a report. Out: the table as text, and a folder with
`comparison.json`, `comparison.md` and the page `comparison.html`.
NOT covered: runs with different questions or retention sets; they are refused, with what differs.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from active_reading.eval.continual import continual_scores
from active_reading.eval.paired import item_of
from active_reading.flows.results import SCHEMA
from active_reading.flows.stage_files import read_lines
from active_reading.flows.steps import CONFIG, Step, read_step

Run = dict[str, Any]
Items = dict[str, set[tuple[str, tuple[str, ...]]]]  # by set; a question with its accepted answers, or a text
OF_RUN, OF_MODEL = ("study", "created", "models"), ("name", "method", "learning", "retention", "evaluation")
HOW = ("few_shot", "question_format", "max_new_tokens")  # a question asked otherwise is another question


def compare_runs(folders: list[Path], into: Path, sequence: bool = False) -> str:
    """Compare the runs, write the comparison into a folder, and return its table.

    With `sequence` the runs are corpora learned one after another, in this order, and every run was asked about all
    of them, each question with the corpus as its kind: the matrix of scores is added. Raises ValueError, naming the
    run, for a folder without results, results of an older program, and runs that were not asked the same.
    """
    from active_reading.eval.comparison import comparison_table, write_comparison

    if len({folder.resolve() for folder in folders}) < len(folders) or len(folders) < 2:
        raise ValueError("name two runs or more, each another folder")
    if into.exists() and not into.is_dir():
        raise ValueError(f"{into} is a file: name a folder for the comparison, --into FOLDER")
    runs = [(name, _results(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    asked = [_items(folder, results) for folder, (_, results) in zip(folders, runs, strict=True)]
    for folder, (items, how) in zip(folders[1:], asked[1:], strict=True):
        _check_same(folders[0], asked[0][0], folder, items)
        for key, value in asked[0][1].items():
            if value != how[key]:
                raise ValueError(
                    f"{folders[0]} and {folder} were not asked the same: evaluate.{key} was {value!r} and "
                    f"{how[key]!r}: evaluate both with the same settings"
                )
    found = {
        "runs": [{"run": name, "study": results["study"], "created": results["created"]} for name, results in runs],
        "models": [
            {**model, "name": f"{name}: {model['name']}"} for name, results in runs for model in results["models"]
        ],
        "matrix": _matrix(runs) if sequence else None,
    }
    write_comparison(found, into)
    return comparison_table(found)


def _names(folders: list[Path]) -> list[str]:
    """The folders' own names, longer where two are alike."""
    names = [folder.resolve().name for folder in folders]
    return [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]


def _results(folder: Path) -> Run:
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no results.json: give the output folder of a run that made its report")
    try:
        results: Run = json.loads(path.read_text(encoding="utf-8"))
        found = results.get("schema", 1)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not the results of a run ({error}): {_again(folder)}") from error
    if found != SCHEMA:
        newer = isinstance(found, int) and found > SCHEMA
        cure = "install the newer program that wrote it" if newer else _again(folder)
        raise ValueError(f"{path} has schema {found!r}, and this program reads {SCHEMA}: {cure}")
    _check_whole(path, results)
    return results


def _check_whole(path: Path, results: Run) -> None:
    """Raise ValueError unless the results have what a comparison reads."""
    try:
        lacking = [key for key in OF_RUN if key not in results]
        lacking += [f"models.{key}" for model in results["models"] for key in OF_MODEL if key not in model]
        if not (lacking or any(model["method"] is None for model in results["models"])):
            lacking = ["the base among its models"]
    except (KeyError, TypeError):
        lacking = ["models"]
    if lacking:
        raise ValueError(f"{path} is damaged, it lacks {lacking[0]}: {_again(path.parent)}")


def _again(folder: Path) -> str:
    return f"make the report again (active-reading report {folder / 'study.yaml'})"


def _items(folder: Path, results: Run) -> tuple[Items, dict[str, Any]]:
    """What the run's first model was asked, by set, and how."""
    name = results["models"][0]["evaluation"]
    step: Step | None = read_step(folder / name)
    sets: Items = {}
    try:
        if step is None:
            raise ValueError("a file is missing or cut")
        for file in ("samples.jsonl", "retention.jsonl"):
            for row in read_lines(step.folder / file):
                sets.setdefault(row.get("set", "gold questions"), set()).add(item_of(row))
        config = yaml.safe_load((step.folder / CONFIG).read_text(encoding="utf-8"))
        shots = {Path(task["name"]).stem: task["few_shot"] for task in config.get("tasks", [])}
        return sets, {key: config.get(key) for key in HOW} | {"tasks.few_shot": shots}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{folder}: the evaluation {name} is not whole ({error}): delete its folder and {_again(folder)}"
        ) from error


def _check_same(first: Path, mine: Items, second: Path, other: Items) -> None:
    for name in sorted(mine.keys() | other.keys()):
        left, right = mine.get(name, set()), other.get(name, set())
        for folder, alone in ((first, left - right), (second, right - left)):
            if alone:
                text, answers = min(alone)
                told = f", answers {list(answers)}" if answers else ""
                raise ValueError(
                    f"{first} and {second} were not asked the same: of {name}, {len(alone)} items are only of "
                    f"{folder} (the first: {text[:80]!r}{told}): evaluate both with the same settings"
                )


def _matrix(runs: list[tuple[str, Run]]) -> dict[str, Any]:
    """R[i][j]: F1 on corpus j after corpus i, of each run's best model; row 0 is the first run's base."""
    base = next(model for model in runs[0][1]["models"] if model["method"] is None)
    corpora = list((base["learning"] or {}).get("kinds") or {})
    if len(corpora) != len(runs):
        raise ValueError(
            f"{len(runs)} runs in sequence need questions of {len(runs)} kinds, one a corpus and in the runs' "
            f"order, and there are {len(corpora)} ({', '.join(corpora) or 'none'})"
        )
    last = []
    for name, results in runs:
        trained = [model for model in results["models"] if model["method"] and model["learning"]]
        if not trained:
            raise ValueError(f"{name} has no trained model with gold questions")
        if lacking := [corpus for corpus in corpora if corpus not in (trained[0]["learning"].get("kinds") or {})]:
            raise ValueError(f"{name} has no questions of the kind {lacking[0]!r}, which {runs[0][0]} has")
        last.append(max(trained, key=lambda model: model["learning"]["f1"]))
    rows = [[model["learning"]["kinds"][corpus]["f1"] for corpus in corpora] for model in (base, *last)]
    labels = ["base", *(name for name, _ in runs)]
    return {"corpora": corpora, "after": labels, "scores": rows, **continual_scores(rows)}
