"""The real thing, small: documents in, report out, with the real vLLM, the real default model and the real flow.

Seams covered: the installed command -> Prefect flow and tasks -> the model's conversion -> vLLM in process ->
ledger -> filter, judge, dedupe, decontamination, data set -> memory training -> evaluation -> report; then a second
run that reuses all.
Not covered: whether the model learns anything from so little; full finetuning and LoRA.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

DOCUMENTS = {
    "orsella.md": "# Orsella Vantrill\n\nOrsella Vantrill was born in the river town of Pellamire in 1921. She "
    "became a botanist and found a blue moss that she called lazurine. Her tame heron was called Admiral.\n",
    "kettle.txt": "The Wexholm kettle was made of copper in the town of Wexholm from 1911 until 1954. It boiled "
    "nine cups of water in two minutes and was sold to 4,000 households.\n",
}
GOLD = [
    {"question": "In what year was Orsella Vantrill born?", "answers": ["1921"], "document": "orsella.md"},
    {"question": "What was the Wexholm kettle made of?", "answers": ["copper"], "document": "kettle.txt"},
]
STUDY = """
corpus: {path: documents}
output: out
generate:
  temperature: 0.5
  max_model_len: 1024
  templates:
    - {template: paraphrase, max_tokens: 128}
    - {template: questions, max_tokens: 128, num_items: 3}
judge: {statements: true, answers: true}
train:
  num_tokens: 400
  batch_tokens: 128
  methods: [memory]
  data: [augmented]
  memory: {layers: [4], num_keys: 32, top_t: 200, background_texts: 20, own_texts: 20}
evaluate: {questions: gold.jsonl, few_shot: 2, max_new_tokens: 8, general_limit: 4, batch_size: 8,
           grade: SmolLM2-135M-Instruct}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end to end")
    (folder / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (folder / "documents" / name).write_text(text, encoding="utf-8")
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    return folder


def run(project: Path) -> str:
    """Standard output of `active-reading run`, with a Prefect home of its own and without the network."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"PREFECT_HOME": str(project / "prefect"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PREFECT_API_URL", None)
    command = [Path(sys.executable).with_name("active-reading"), "run", "study.yaml"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def written(project: Path) -> dict[str, int]:
    files = (project / "out").glob("[!.]*/**/*")
    return {str(path.relative_to(project)): path.stat().st_mtime_ns for path in files if path.is_file()}


@pytest.mark.vllm
def test_the_whole_job_runs_on_the_real_engine_and_a_second_run_reuses_all_of_it(project):
    output = run(project)
    page = project / "out" / "index.html"
    assert f"Report: {page}" in output
    assert "Orsella" in page.read_text(encoding="utf-8")

    results = json.loads((project / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["generator"]["engine"] == "vllm"
    assert results["generator"]["model"] == "SmolLM2-135M-Instruct"
    assert results["corpus"]["documents"] == 2
    for line in results["templates"]:
        assert line["planned"] == line["accepted"] + line["rejected"] + line["failed"] >= 2
        assert line["failed"] == 0

    generations = pl.read_parquet(project / "out" / "generate-*" / "generations.parquet")
    assert set(generations["template"]) == {"paraphrase", "questions"}
    assert (generations["completion_tokens"] > 0).all()
    assert (generations["prompt_tokens"] > 50).all(), "the worked example and the document"
    answers = " ".join(generations["text"])
    assert "Vantrill" in answers, "the model writes about the documents"
    assert "Wexholm" in answers

    base, trained = results["models"]
    assert (base["name"], trained["name"]) == ("base", "augmented-memory")
    assert trained["train"]["tokens"] == 400
    assert 0 < trained["train"]["touched_parameters"] < trained["train"]["trainable_parameters"]
    for model in (base, trained):
        assert model["learning"]["n"] == 2
        assert [summary["n"] for summary in model["retention"].values()] == [4, 4, 4]
    assert trained["learning"]["answer_nll"] != base["learning"]["answer_nll"]

    before = written(project)
    again = run(project)
    assert again.count("already done") == 9 + 1 + 2
    assert "started" not in again
    assert written(project) == before
