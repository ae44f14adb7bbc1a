"""Estimate: a sample is asked, kept, and told as a table."""

import json
import re

import polars as pl

from active_reading.augment.judge import ANSWER_TOKENS
from active_reading.eval.made_questions import MOST_OF_A_CHUNK, WRITING, WRITING_TOKENS
from active_reading.flows.estimate import estimate, most_graded, most_judged, most_made
from active_reading.flows.pipeline import run_plain
from active_reading.flows.settings import load_study
from active_reading.prompts.render import load_template


def test_an_estimate_tells_what_remains_and_the_run_asks_just_that(tmp_path, tiny_model, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for number in range(12):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"The owl {number} sleeps in the oak. The owl eats mice.")
    words = [
        f"model={tiny_model}",
        "generate.engine=echo",
        "train.methods=[full]",
        "generate.prices.completion_per_million=100000",
    ]
    study = load_study(str(tmp_path / "docs"), words)
    told = estimate(study, 4)
    assert told.startswith("12 documents, 12 chunks\n0 requests are answered already\na sample of 4 chunks: ")
    expected = int(re.search(r"^all +(\d+)", told, re.MULTILINE)[1])
    assert re.search(r"cost at the given prices: \d+\.\d\d$", told)
    caplog.set_level("INFO", logger="active_reading")
    run_plain(study, "generate")
    assert f"{expected} requests asked now" in caplog.text
    assert estimate(study, 4).endswith("\nnothing remains to be asked")


def test_the_most_that_a_judge_may_ask_is_told(tmp_path):
    (tmp_path / "one.txt").write_text("The owl sleeps.")
    words = ["judge.statements=true", "generate.engine=echo"]
    words.append(
        "generate.templates=[{template: paraphrase, replicates: 3}, {template: questions, num_items: 5}, "
        "{template: propose_strategies, num_items: 2, replicates: 2, apply: apply_strategy}]"
    )
    study = load_study(str(tmp_path), words)
    assert most_judged(study, 10) == 10 * (3 + 2 * 2) + 200
    study.judge.answers = True
    assert most_judged(study, 10) == 10 * (3 + 2 * 2) + 200 + 10 * 5


def test_the_most_that_a_grader_may_ask_is_told(tmp_path, tiny_model):
    (tmp_path / "one.txt").write_text("The owl sleeps in the oak.")
    rows = [{"question": f"What is {number}?", "answers": ["x"]} for number in range(250)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["evaluate.make_questions=2", "train.methods=[full]", "train.sweep.seed=[0, 1]"]
    study = load_study(str(tmp_path), [*words, f"model={tiny_model}", f"evaluate.grade={tiny_model}"])
    assert most_graded(study, 3) == 256 * (1 + 2 * 2) + 2 * 200
    study.generate.engine, study.output = "echo", str(tmp_path / "out")
    assert "\nand of the grader at most 1,660 short requests" in estimate(study, 1)


def test_the_most_that_made_questions_may_ask_is_told(tmp_path, tiny_model):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.txt").write_text("The owl sleeps in the oak.")
    words = ["evaluate.make_questions=2", "generate.engine=echo", "train.methods=[full]", f"model={tiny_model}"]
    study = load_study(str(tmp_path / "docs"), [*words, f"output={tmp_path / 'out'}"])
    chunks = pl.DataFrame({"document_id": ["a", "a", "a", "b"]})  # two of the first, and all of the second
    assert most_made(study, chunks) == (3, 12, 3 * WRITING_TOKENS + 12 * ANSWER_TOKENS)
    told = estimate(study, 1)
    assert told.endswith(
        "\nand requests for the made questions: at most 1 to write and 4 to check them, 512 answer tokens in all"
    )
    run_plain(study, "questions")
    asked = pl.read_parquet(tmp_path / "out" / "making_questions" / "*.parquet")
    assert 1 < asked.height <= 1 + 4
    assert asked["completion_tokens"].sum() <= 512


def test_the_schema_of_made_questions_has_the_same_limit():
    schema = load_template(str(WRITING)).schema
    assert schema is not None
    assert schema["properties"]["questions"]["maxItems"] == MOST_OF_A_CHUNK
