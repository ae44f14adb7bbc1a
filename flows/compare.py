"""Several finished runs side by side: one table of all their models, and corpora learned one after another.

In:  output folders, each with the `results.json` of a report. Out: the table as text, and a folder with
`comparison.json`, `comparison.md` and the page `comparison.html`.
NOT covered: runs with different questions or retention sets; they are refused, with what differs.
"""

import json
from pathlib import Path
from typing import Any

from active_reading.eval.continual import continual_scores
from active_reading.flows.results import SCHEMA
from active_reading.flows.steps import Step, read_step

Run = dict[str, Any]


def compare_runs(folders: list[Path], into: Path, sequence: bool = False) -> str:
    """Compare the runs, write the comparison into a folder, and return its table.

    With `sequence` the runs are corpora learned one after another, in this order, and every run was asked about all
    of them, each question with the corpus as its kind: the matrix of scores is added. Raises ValueError, naming the
    run, for a folder without results, results of an older program, and runs that were not asked the same.
    """
    from active_reading.eval.comparison import comparison_table, write_comparison

    if len({folder.resolve() for folder in folders}) < 2:
        raise ValueError("name two runs or more, each another folder")
    runs = [(name, _results(folder)) for name, folder in zip(_names(folders), folders, strict=True)]
    asked = [_items(folder, results) for folder, (_, results) in zip(folders, runs, strict=True)]
    for folder, items in zip(folders[1:], asked[1:], strict=True):
        _check_same(folders[0], asked[0], folder, items)
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
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not the results of a run ({error})") from error
    if found != SCHEMA:
        raise ValueError(
            f"{path} has schema {found}, and this program reads {SCHEMA}: make the report again "
            f"(active-reading report {folder / 'study.yaml'})"
        )
    return results


def _items(folder: Path, results: Run) -> dict[str, set[str]]:
    """What the run's first model was asked, by set."""
    step: Step | None = read_step(folder / results["models"][0]["evaluation"])
    if step is None:
        raise ValueError(
            f"{folder}: the evaluation {results['models'][0]['evaluation']} is not whole: run it again"
        )
    sets: dict[str, set[str]] = {}
    for name in ("samples.jsonl", "retention.jsonl"):
        for line in filter(None, (step.folder / name).read_text(encoding="utf-8").split("\n")):
            row = json.loads(line)
            sets.setdefault(row.get("set", "gold questions"), set()).add(row.get("question") or row["text"])
    return sets


def _check_same(first: Path, mine: dict[str, set[str]], second: Path, other: dict[str, set[str]]) -> None:
    for name in sorted(mine.keys() | other.keys()):
        left, right = mine.get(name, set()), other.get(name, set())
        for folder, alone in ((first, left - right), (second, right - left)):
            if alone:
                raise ValueError(
                    f"{first} and {second} were not asked the same: of {name}, {len(alone)} items are only of "
                    f"{folder} (the first: {min(alone)[:80]!r}): evaluate both with the same settings"
                )


def _matrix(runs: list[tuple[str, Run]]) -> dict[str, Any]:
    """R[i][j]: F1 on corpus j after corpus i, of each run's best model; row 0 is the first run's base."""
    base = next(model for model in runs[0][1]["models"] if model["method"] is None)
    last = []
    for name, results in runs:
        trained = [model for model in results["models"] if model["method"] and model["learning"]]
        if not trained:
            raise ValueError(f"{name} has no trained model with gold questions")
        last.append(max(trained, key=lambda model: model["learning"]["f1"]))
    corpora = list((base["learning"] or {}).get("kinds") or {})
    if len(corpora) != len(runs):
        raise ValueError(
            f"{len(runs)} runs in sequence need questions of {len(runs)} kinds, one a corpus and in the runs' "
            f"order, and there are {len(corpora)} ({', '.join(corpora) or 'none'})"
        )
    rows = [[model["learning"]["kinds"][corpus]["f1"] for corpus in corpora] for model in (base, *last)]
    labels = ["base", *(name for name, _ in runs)]
    return {"corpora": corpora, "after": labels, "scores": rows, **continual_scores(rows)}
