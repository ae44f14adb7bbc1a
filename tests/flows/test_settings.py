"""The study file: what is read, where paths lead, and errors that name the key, the value and what is allowed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from active_reading.flows.settings import DEFAULT_MODEL, DEMO, Study, demo_study, load_study

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, text: str, name: str = "study.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def complaint(folder: Path, text: str, *overrides: str) -> str:
    """The one line that a bad study is refused with."""
    with pytest.raises(ValueError, match=".") as error:
        load_study(write(folder, text), list(overrides))
    message = str(error.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


def test_a_study_needs_only_a_path(tmp_path):
    study = load_study(write(tmp_path, "corpus: {path: docs}", "mine.yaml"), [])
    assert study.name == "mine"
    assert study.model == DEFAULT_MODEL
    assert study.train.methods == ["full", "lora", "memory"]
    assert study.evaluate.questions is None


def test_paths_in_the_file_are_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    target = write(
        tmp_path,
        "corpus: {path: ../docs}\nevaluate: {questions: gold.jsonl}\noutput: results\nmodel: models/mine\n"
        "generate: {templates: [{template: own.j2}, {template: paraphrase}, "
        "{template: sub/plan.j2, apply: sub/apply.j2}]}",
    )
    monkeypatch.chdir("/")
    study = load_study(target, [])
    assert Path(study.corpus.path).resolve() == tmp_path.parent / "docs"
    assert study.evaluate.questions == str(tmp_path / "gold.jsonl")
    assert study.root == tmp_path / "results"
    assert study.model == str(tmp_path / "models/mine")
    uses = study.generate.templates
    assert [use.template for use in uses] == [str(tmp_path / "own.j2"), "paraphrase", str(tmp_path / "sub/plan.j2")]
    assert uses[2].apply == str(tmp_path / "sub/apply.j2")


def test_absolute_paths_and_names_on_the_hub_stay_as_they_are(tmp_path):
    text = "corpus: {path: /data/docs}\nmodel: Qwen/Qwen3-0.6B\noutput: /out\nevaluate: {questions: /data/q.jsonl}"
    study = load_study(write(tmp_path, text), [])
    assert (study.corpus.path, study.model) == ("/data/docs", "Qwen/Qwen3-0.6B")
    assert (study.root, study.evaluate.questions) == (Path("/out"), "/data/q.jsonl")


def test_results_go_below_the_current_folder_unless_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_study(write(tmp_path, "corpus: {path: x}\nname: tea"), []).root == tmp_path / "runs" / "tea"


@pytest.mark.parametrize(
    ("folder", "name"), [("my docs (old)", "my-docs-old"), ("docs.v2", "docs.v2"), ("__", "__"), ("...", "study")]
)
def test_a_folder_of_documents_is_a_study_of_its_name(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    study = load_study(str(tmp_path / folder), [])
    assert study.name == name
    assert study.corpus.path == str(tmp_path / folder)
    assert study.evaluate.questions is None


def test_questions_beside_the_documents_are_found(tmp_path):
    (tmp_path / "questions.jsonl").write_text("{}\n")
    assert load_study(str(tmp_path), []).evaluate.questions == str(tmp_path / "questions.jsonl")


def test_overrides_win_in_order_and_their_values_are_yaml(tmp_path):
    target = write(tmp_path, "corpus: {path: x}\ntrain: {num_tokens: 500}")
    study = load_study(
        target,
        [
            "train.num_tokens=700",
            "train.num_tokens=800",
            "train.methods=[memory]",
            "train.learning_rates.full=1e-4",
            "evaluate.questions=null",
            "generate.engine=echo",
            "name=tea time",
        ],
    )
    assert study.train.num_tokens == 800
    assert study.train.methods == ["memory"]
    assert study.train.learning_rates.full == 1e-4
    assert study.generate.engine == "echo"
    assert study.name == "tea time"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_tokens", "'train.num_tokens' is not of the form section.key=value"),
        ("=5", "'=5' is not of the form section.key=value"),
        ("train.methods=[full", r"the value in 'train.methods=\[full' is not valid YAML"),
        ("corpus.path.deep=1", "'corpus.path.deep=1': 'path' is not a section"),
        ("name=2024-13-45", "the value in 'name=2024-13-45' is not valid YAML"),
        ("train.num_token=5", "unknown key 'train.num_token', did you mean 'num_tokens'?"),
        ("train.num_tokens=many", "train.num_tokens='many': input should be a valid integer"),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, message):
    assert re.match(message.replace("?", r"\?"), complaint(tmp_path, "corpus: {path: x}", override))


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("corups: {path: x}\ncorpus: {path: x}", "corups", "corpus"),
        ("corpus: {path: x}\ntrain: {batch_token: 5}", "train.batch_token", "batch_tokens"),
        ("corpus: {path: x}\ntrain: {memory: {topk: 5}}", "train.memory.topk", "top_k"),
        ("corpus: {path: x}\ntrain: {learning_rates: {memroy: 5}}", "train.learning_rates.memroy", "memory"),
        (
            "corpus: {path: x}\ngenerate: {templates: [{template: a}, {template: b, replicate: 2}]}",
            "generate.templates.1.replicate",
            "replicates",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one_and_all_that_are_allowed(tmp_path, text, key, suggestion):
    message = complaint(tmp_path, text)
    assert message.startswith(f"unknown key '{key}', did you mean '{suggestion}'? (allowed: ")
    assert suggestion in message.partition("allowed:")[2]


def test_an_unknown_key_like_no_other_is_named_without_a_guess(tmp_path):
    message = complaint(tmp_path, "corpus: {path: x}\ndedupe: {qqq: 1}")
    allowed = "threshold, shingle_words, scope, earlier, semantic_model, semantic_threshold"
    assert message == f"unknown key 'dedupe.qqq' (allowed: {allowed})"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("generate: {temperature: 3}", "generate.temperature=3: input should be less than or equal to 2"),
        ("generate: {engine: gpt}", "generate.engine='gpt': input should be 'vllm', 'endpoint' or 'echo'"),
        ("train: {methods: [full, qlora]}", "train.methods.1='qlora': input should be 'full', 'lora' or 'memory'"),
        ("train: {methods: []}", "train.methods=[]: list should have at least 1 item"),
        ("train: {num_tokens: 99}", "train.num_tokens=99: input should be greater than or equal to 100"),
        ("train: {memory: {layers: [-1]}}", "train.memory.layers.0=-1: input should be greater than or equal to 0"),
        ("train: {memory: {num_keys: 4}}", "train.memory: top_t=1000 exceeds the 16 slots"),
        ("train:", "train=None: input should be a valid dictionary"),
        ("name: ../up", "name='../up': string should match pattern"),
        ("output: s3://b/runs", "output: s3://b/runs is a URL: name a folder of this machine"),
        ("dedupe: {earlier: s3://b/runs}", "dedupe.earlier: s3://b/runs is a URL: name a folder of this machine"),
        ("corpus: {path: x, max_megabytes: .inf}", "corpus.max_megabytes=inf: input should be a finite number"),
        ("5: x", "5=5: keys should be strings"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(tmp_path, text, expected):
    assert complaint(tmp_path, f"corpus: {{path: x}}\n{text}").startswith(expected)


def test_several_mistakes_are_told_at_once(tmp_path):
    message = complaint(tmp_path, "train: {num_tokens: 1}\nmodle: x")
    assert "'corpus' is missing" in message
    assert "train.num_tokens=1" in message
    assert "unknown key 'modle', did you mean 'model'?" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("corpus: [", "is not valid YAML"), ("- a\n- b", "must hold sections"), ("", "must hold sections")],
)
def test_a_file_that_is_no_study_is_named(tmp_path, text, message):
    complained = complaint(tmp_path, text)
    assert message in complained
    assert str(tmp_path / "study.yaml") in complained


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"study file {tmp_path / 'no.yaml'} does not exist"):
        load_study(str(tmp_path / "no.yaml"), [])


def test_a_study_survives_being_written_and_read(tmp_path):
    study = demo_study(["train.seed=3"])
    again = load_study(write(tmp_path, yaml.safe_dump(study.model_dump())), [])
    assert again == study


def test_a_study_written_in_full_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["output=out", "corpus.path=docs", "generate.template_folder=own", "dedupe.earlier=before"]
    study = demo_study(given)
    for folder in ("out", study.model):
        (tmp_path / folder).mkdir()
    (tmp_path / "out" / "study.yaml").write_text(study.to_yaml())
    monkeypatch.chdir("/")
    again = load_study(str(tmp_path / "out" / "study.yaml"), [])
    assert again.model == study.model, "that ships, whatever a folder is called"
    assert again.root == tmp_path / "out"
    assert (again.corpus.path, again.generate.template_folder) == (str(tmp_path / "docs"), str(tmp_path / "own"))
    assert again.dedupe.earlier == str(tmp_path / "before")


def test_the_demo_is_a_study_of_documents_and_questions_that_ship():
    study = demo_study([])
    assert study.name == "demo"
    assert Path(study.corpus.path) == DEMO / "documents"
    assert Path(study.corpus.path).is_dir()
    assert Path(str(study.evaluate.questions)).is_file()


def settings_fields(model: Any = Study) -> set[tuple[str, str]]:
    """(class, field) of every setting, sections included."""
    found = set()
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        found.add((model.__name__, name))
        for section in sections:
            found |= settings_fields(section)
    return found


def test_every_setting_is_read_somewhere():
    """By text: `settings.FIELD`, or the name that the code gives to that section, outside the class itself."""
    sources = [path.read_text() for folder in ("augment", "train", "eval", "flows") for path in walk(folder)]
    holders = {
        "TemplateUse": "use|request.use",
        "TaskUse": "use|self",
        "Study": "study|self",
        "LearningRates": "learning_rates",
        "BudgetSettings": "budget",
        "PriceSettings": "self",
    }
    fields = settings_fields()
    assert {("TemplateUse", "apply"), ("MemorySettings", "top_t"), ("Study", "corpus")} <= fields
    unread = []
    for owner, field in sorted(fields):
        if owner == "LearningRates":  # read by the method's name
            pattern = r"getattr\([\w.]*learning_rates, method\)"
        else:
            pattern = rf"\b({holders.get(owner, 'settings|drawn')}|study\.\w+|settings\.\w+)\.{field}\b"
        if not any(re.search(pattern, source) for source in sources):
            unread.append(f"{owner}.{field}")
    assert unread == []


def walk(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_no_setting_is_named_like_a_method_of_a_dict():
    """Prefect turns models into dicts, and `dict(model)` would call a field named `keys`."""

    def fields(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            yield name
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from fields(field.annotation)

    assert not set(fields(Study)) & set(dir(dict))


def test_decontamination_is_on_unless_said_otherwise_and_nothing_but_yes_or_no(tmp_path):
    assert load_study(write(tmp_path, "corpus: {path: x}"), []).decontaminate is True
    assert load_study(write(tmp_path, "corpus: {path: x}"), ["decontaminate=false"]).decontaminate is False
    assert "decontaminate=" in complaint(tmp_path, "corpus: {path: x}\ndecontaminate: gold")
    assert "unknown key 'decontaminat', did you mean 'decontaminate'?" in complaint(
        tmp_path, "corpus: {path: x}\ndecontaminat: true"
    )


def test_a_template_in_the_users_folder_is_named_by_its_name_alone(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "own.j2").write_text("---\nversion: 1\nanswer: text\n---\n{{ text }}\n")
    (tmp_path / "beside.j2").write_text("---\nversion: 1\nanswer: text\n---\n{{ text }}\n")
    (tmp_path / "study.yaml").write_text(
        "corpus: {path: docs}\n"
        "generate: {template_folder: words, templates: [{template: own.j2}, {template: beside.j2}]}\n"
    )
    study = load_study(str(tmp_path / "study.yaml"), [])
    assert [use.template for use in study.generate.templates] == ["own.j2", str(tmp_path / "beside.j2")]


def test_yaml_that_is_nested_too_deeply_is_an_error_of_one_line(tmp_path):
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(ValueError, match="deep.yaml is not valid YAML"):
        load_study(str(tmp_path / "deep.yaml"), [])
