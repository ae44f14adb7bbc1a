"""Tasks of lm-evaluation-harness: the same numbers as by itself, its own files, nothing asked twice."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'active-reading[eval]'")

from active_reading.eval import harness
from active_reading.eval.settings import SHIPPED_TASKS, EvaluateSettings, TaskUse
from active_reading.eval.task_functions import read_articles, read_rows
from active_reading.train.load import load_model, load_tokenizer

ROWS = [
    {"question": "who built the heron", "answer": ["Ada", "Ada Byron"]},
    {"question": "when was it built", "answer": ["1921"]},
    {"question": "what is it made of", "answer": ["brass"]},
]
SUMS = [{"question": f"What is {n} + 1?", "answer": f"It is {n} + 1 = {n + 1}.\n#### {n + 1}"} for n in range(3)]
ARTICLES = (
    " \n = Heron = \n \n A heron , tall . \n \n = = Nest = = \n \n Of reed . \n = Moss = \n \n Green @-@ grey . \n"
)


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> list[TaskUse]:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in (("nq", ROWS), ("gsm8k", SUMS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "wiki.txt").write_text(ARTICLES, encoding="utf-8")
    files = {"nq_open_local": "nq.jsonl", "nq_open_nll_local": "nq.jsonl", "wikitext_local": "wiki.txt"}
    files |= {"gsm8k_nll_local": "gsm8k.jsonl", "gsm8k_local": "gsm8k.jsonl"}
    return [TaskUse(name=name, data=str(folder / file), limit=2) for name, file in files.items()]


def run(model: Any, folder: Path, uses: list[TaskUse]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    tokenizer = load_tokenizer(model.config._name_or_path)
    return harness.run_tasks(model, tokenizer, uses, "tiny", 2, folder / "cache", folder / "out")


@pytest.fixture(scope="module")
def ran(tiny_model: Path, uses: list[TaskUse], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ran")
    return folder, *run(load_model(tiny_model).eval(), folder, uses)


def test_windows_as_long_as_the_context_are_read_one_by_one(tiny_model, uses, tmp_path, monkeypatch) -> None:
    from lm_eval.models.huggingface import HFLM

    sizes = {}
    for asked in ("loglikelihood_rolling", "generate_until"):
        real = getattr(HFLM, asked)
        told = lambda self, *rest, real=real, asked=asked, **more: (  # noqa: E731
            sizes.setdefault(asked, self.batch_size),
            real(self, *rest, **more),
        )[1]
        monkeypatch.setattr(HFLM, asked, told)
    run(load_model(tiny_model).eval(), tmp_path, uses)
    assert sizes == {"loglikelihood_rolling": 1, "generate_until": 2}


def test_every_task_gives_the_numbers_that_the_harness_gives_by_itself(ran: Any, tiny_model, uses) -> None:
    """Against a model that the harness loads itself, without our wrapper, cache or rows."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    _, summaries, _ = ran
    plain = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(tiny_model), "dtype": "float32", "device": "cpu"},
        tasks=[harness.load_definition(use) for use in uses],
        task_manager=TaskManager(include_defaults=False),
        limit=2,
        batch_size=2,
        bootstrap_iters=0,
    )
    compared = 0
    for task, scores in plain["results"].items():
        for name, value in scores.items():
            metric, _, kept = name.partition(",")
            if isinstance(value, float) and not metric.endswith("_stderr"):
                ours = summaries[task][metric if kept == "none" else name]
                tolerance = 2e-2 if metric == "bits_per_byte" else 1e-6  # a mean of articles, not of bytes
                assert ours == pytest.approx(value, rel=tolerance), (task, name)
                compared += 1
    assert compared >= 8


def test_there_is_one_row_an_item_with_its_scores(ran: Any) -> None:
    _, summaries, rows = ran
    assert {task: len(items) for task, items in rows.items()} == dict.fromkeys(rows, 2)
    assert rows["nq_open_local"][0].keys() == {"text", "exact_match", "f1"}
    assert rows["nq_open_nll_local"][0]["nll_per_byte"] > 0
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} < rows["gsm8k_local"][0].keys()
    for task, items in rows.items():
        assert summaries[task]["n"] == 2
        assert len({row["text"] for row in items}) == 2
        assert all(math.isfinite(value) for row in items for value in row.values() if isinstance(value, float))


def test_the_files_are_the_harness_s_own(ran: Any) -> None:
    files = list((ran[0] / "out").rglob("results_*.json"))
    assert len(files) == 5
    found = json.loads(files[0].read_text(encoding="utf-8"))
    assert {
        "results",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "higher_is_better",
        "task_hashes",
    } <= found.keys()
    samples = next((ran[0] / "out").rglob("samples_nq_open_local_*.jsonl")).read_text(encoding="utf-8").splitlines()
    assert json.loads(samples[0])["doc"] == ROWS[0]


def test_what_was_answered_is_not_asked_again_even_after_a_kill(tiny_model, uses, tmp_path, ran: Any) -> None:
    model = load_model(tiny_model).eval()
    forward, calls = model.forward, []

    def dying(*words: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*words, **named)

    use = uses[3].model_copy(update={"limit": 3})
    model.forward = dying
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, [use])  # the first batch is answered, the second is not
    again = run(model, tmp_path, [use])
    assert len(calls) == 3, "only the batch that was missing"
    model.forward = lambda *_, **__: pytest.fail("asked again")
    assert run(model, tmp_path, [use]) == again


BAD_ANSWERS = ("[]", '""', "1986", "null", '["1986", 5]', '"\\ud800"')


def test_answers_of_a_task_are_texts_or_lists_and_one_list_makes_all_lists(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Q", "answer": "a"}\n' * 2, encoding="utf-8")
    assert read_rows(str(path))["test"]["answer"][:] == ["a", "a"]
    with path.open("a", encoding="utf-8") as file:
        file.write('{"question": "Q", "answer": ["b", "c"]}\n')
    assert read_rows(str(path))["test"]["answer"][:] == [["a"], ["a"], ["b", "c"]]


def test_a_task_s_data_that_cannot_be_used_is_named(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="rows.jsonl, does not exist"):
        read_rows(str(path))
    for text, message in (
        ("\n", "holds no item"),
        ('{"question": 1}\n', ":1: a row needs"),
        ("{\n", ":1 is not JSON"),
        ("[" * 100_000 + "\n", ":1 is not JSON"),
        ('{"question": 5, "answer": "a"}\n', ":1: 'question' needs a text"),
        *(
            (f'{{"question": "Q", "answer": {answer}}}\n', "and 'answer' a text or a list")
            for answer in BAD_ANSWERS
        ),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_rows(str(path))


def test_articles_are_cut_at_their_titles_and_lose_nothing(tmp_path) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text(ARTICLES, encoding="utf-8")
    pages = read_articles(str(path))["test"]["page"]
    assert [page.split("\n")[0] for page in pages] == [" = Heron = ", " = Moss = "]
    assert "\n".join(pages) == ARTICLES.partition("\n")[2]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ({"name": "nq_open_local"}, "reads a local file"),
        ({"name": "hellaswag", "data": "x.jsonl"}, "the harness's own .*gsm8k_local"),
        ({"name": "", "data": None}, "at least 1"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_at_the_start(use: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(tasks=[use])
    with pytest.raises(ValueError, match="2 times"):
        EvaluateSettings(tasks=[{"name": "hellaswag"}] * 2)


def test_an_unknown_task_is_named() -> None:
    from lm_eval.tasks import TaskManager

    with pytest.raises(ValueError, match=r"no task 'helaswag' \(`lm_eval ls tasks`"):
        harness._loaded(TaskUse(name="helaswag"), TaskManager(include_defaults=False))


@pytest.mark.parametrize("text", ["task: [unclosed", "- a list", "process_docs: !function nothing.here"])
def test_a_definition_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml is no definition of a task"):
        harness.check_tasks([TaskUse(name=str(tmp_path / "mine.yaml"))])


def test_tasks_that_can_be_run_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    monkeypatch.setattr(tasks, "TaskManager", lambda: SimpleNamespace(all_subtasks=["hellaswag"]))  # takes seconds
    harness.check_tasks([TaskUse(name="hellaswag"), TaskUse(name="nq_open_local", data="here.jsonl")])
    with pytest.raises(ValueError, match="no task 'helaswag'"):
        harness.check_tasks([TaskUse(name="helaswag")])


def test_every_shipped_task_carries_its_name_and_reads_its_file_from_the_settings() -> None:
    for path in SHIPPED_TASKS.glob("*.yaml"):
        config = harness.load_definition(TaskUse(name=path.stem, data="here.jsonl"))
        assert config["task"] == path.stem
        assert config["metadata"]["data"] == "here.jsonl"


def test_a_task_of_ones_own_is_what_it_includes_and_the_modules_beside_it_too(tmp_path: Path) -> None:
    for name in ("mine.yaml", "common.yaml", "study.yaml", "scores.py", ".hidden.py"):
        (tmp_path / name).write_text("include: common.yaml\ntask: mine\n")
    use = TaskUse(name=str(tmp_path / "mine.yaml"))
    assert [path.name for path in use.files] == ["mine.yaml", "common.yaml", "scores.py"]
    assert [path.name for path in TaskUse(name="gsm8k_local", data="rows.jsonl").files] == [
        "gsm8k_local.yaml",
        "rows.jsonl",
    ]
    assert TaskUse(name="hellaswag").files == []
