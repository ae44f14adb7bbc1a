"""Runs side by side: what is shown, and what is refused. The runs are folders as a report leaves them."""

import json
from pathlib import Path
from typing import Any

import pytest

from active_reading.flows.compare import compare_runs
from active_reading.flows.results import SCHEMA
from active_reading.flows.steps import run_step

HOSTILE = "<script>alert(1)</script>"


def summary(f1: float) -> dict[str, Any]:
    return {"n": 2, "f1": f1, "f1_se": 0.01, "exact_match": f1, "exact_match_se": 0.01}


def make_run(
    folder: Path,
    f1: float,
    question: str = "Who?",
    kinds: dict[str, float] | None = None,
    answers: tuple[str, ...] = ("Ada",),
    **config: Any,
) -> Path:
    def build(step: Path) -> dict[str, Any]:
        asked = {"question": question, "answers": answers}
        (step / "samples.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
        row = {"set": "general_text", "text": "A text\u2028with a line end."}
        (step / "retention.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        return {}

    step = run_step(folder, "evaluate-base", 1, config, {}, build)
    models = []
    for name, method, score in (("base", None, 0.1), (f"naive-{HOSTILE}", "full", f1)):
        learning = summary(score)
        if kinds:
            learning["kinds"] = {kind: summary(value if method else 0.0) for kind, value in kinds.items()}
        block = {"general_text": {"n": 1, "nll": 3.0, "nll_se": 0.0}}
        models.append({"name": name, "method": method, "learning": learning, "retention": block})
        models[-1]["evaluation"] = step.folder.name
    results = {"schema": SCHEMA, "study": "one", "created": "2026-11-25T00:00:00+00:00", "models": models}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_every_model_of_every_run_is_in_the_table_and_the_files(tmp_path):
    runs = [make_run(tmp_path / name, f1) for name, f1 in (("first", 0.4), ("second", 0.6))]
    table = compare_runs(runs, tmp_path / "out")
    assert [line.split(":")[0] for line in table.splitlines()[2:]] == ["first", "first", "second", "second"]
    assert "0.600 +- 0.010" in table
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "second: naive-&lt;script&gt;" in page
    assert HOSTILE not in (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))["matrix"] is None


def test_runs_that_were_not_asked_the_same_are_refused_with_what_differs(tmp_path):
    runs = [make_run(tmp_path / "a", 0.4), make_run(tmp_path / "b", 0.4, question="When?")]
    with pytest.raises(ValueError, match=r"of gold questions, 1 items are only of .*a \(the first: 'Who\?', "):
        compare_runs(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"answers": ("Ada", "Ada L.")}, r"1 items are only of .*a \(the first: 'Who\?', answers \['Ada'\]\)"),
        ({"few_shot": 0}, "evaluate.few_shot was 5 and 0: evaluate both with the same settings"),
        ({"max_new_tokens": 1}, "evaluate.max_new_tokens was None and 1"),
        ({"tasks": [{"name": "arc_easy", "few_shot": 3}]}, r"tasks.few_shot was \{\} and \{'arc_easy': 3\}"),
    ],
)
def test_one_question_with_other_answers_or_settings_is_not_the_same(tmp_path, other, message):
    runs = [make_run(tmp_path / "a", 0.4, few_shot=5), make_run(tmp_path / "b", 0.4, **({"few_shot": 5} | other))]
    with pytest.raises(ValueError, match=message):
        compare_runs(runs, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        ({"models": []}, "the base among its models"),
        ({"models": None}, "models"),
        ({"models": [{"name": "base", "method": None}]}, "models.learning"),
    ],
)
def test_results_that_lack_something_are_named_with_the_cure(tmp_path, change, lacking):
    run, other = make_run(tmp_path / "a", 0.4), make_run(tmp_path / "b", 0.4)
    path = other / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=f"results.json is damaged, it lacks {lacking}: make the report again"):
        compare_runs([run, other], tmp_path / "out")


def test_a_newer_schema_needs_a_newer_program_and_a_file_is_no_folder(tmp_path):
    run, other = make_run(tmp_path / "a", 0.4), make_run(tmp_path / "b", 0.4)
    path = other / "results.json"
    with pytest.raises(ValueError, match="results.json is a file: name a folder"):
        compare_runs([run, other], path)
    newer = json.loads(path.read_text(encoding="utf-8")) | {"schema": SCHEMA + 1}
    path.write_text(json.dumps(newer), encoding="utf-8")
    with pytest.raises(ValueError, match="install the newer program"):
        compare_runs([run, other], tmp_path / "out")


def test_an_evaluation_whose_rows_are_damaged_is_named(tmp_path):
    run, other = make_run(tmp_path / "a", 0.4), make_run(tmp_path / "b", 0.4)
    rows = next(other.glob("evaluate-base-*/samples.jsonl"))
    rows.write_text(rows.read_text(encoding="utf-8").replace("question", "qvestion"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"b: the evaluation evaluate-base-\w+ is not whole \('text'\)"):
        compare_runs([run, other], tmp_path / "out")


def test_a_folder_that_cannot_be_compared_is_named(tmp_path):
    run, other = make_run(tmp_path / "a", 0.4), make_run(tmp_path / "b", 0.4)
    with pytest.raises(ValueError, match="two runs or more"):
        compare_runs([run, run], tmp_path / "out")
    with pytest.raises(ValueError, match="each another folder"):
        compare_runs([run, other, run], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no results\.json"):
        compare_runs([run, tmp_path / "empty"], tmp_path / "out")
    path = other / "results.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["schema"]
    for text, message in (
        (json.dumps(old), "schema 1, and this program reads 2: make the report again"),
        ("[]", "is not the results of a run"),
        ("{", "is not the results of a run"),
        ("[" * 100_000, "is not the results of a run"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            compare_runs([run, other], tmp_path / "out")
    make_run(tmp_path / "c", 0.4)
    next((tmp_path / "c").glob("evaluate-base-*/samples.jsonl")).unlink()
    with pytest.raises(ValueError, match="is not whole"):
        compare_runs([run, tmp_path / "c"], tmp_path / "out")


def test_corpora_in_sequence_make_a_matrix_and_what_follows_from_it(tmp_path):
    runs = [make_run(tmp_path / "first", 0.4, kinds={"one": 0.8, "two": 0.1})]
    runs += [make_run(tmp_path / "second", 0.6, kinds={"one": 0.5, "two": 0.9})]
    table = compare_runs(runs, tmp_path / "out", sequence=True)
    assert "average +0.700, backward -0.300, forward +0.100, forgetting +0.300" in table
    matrix = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))["matrix"]
    assert matrix["after"] == ["base", "first", "second"]
    assert matrix["scores"] == [[0.0, 0.0], [0.8, 0.1], [0.5, 0.9]]
    assert 'class="heat"' in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"2 runs in sequence need questions of 2 kinds.*\(none\)"):
        compare_runs([make_run(tmp_path / n, 0.1) for n in "cd"], tmp_path / "out", sequence=True)
    odd = make_run(tmp_path / "odd", 0.6, kinds={"one": 0.5, "three": 0.9})
    with pytest.raises(ValueError, match="odd has no questions of the kind 'two', which first has"):
        compare_runs([runs[0], odd], tmp_path / "out", sequence=True)
