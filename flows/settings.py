"""The study: one YAML file, validated once, that configures every stage.

Sections are the stages' own settings. Unknown keys and bad values are refused with the key, the value and
what is allowed. Paths in the file are relative to the file.
"""

import difflib
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from active_reading.augment.chunk import ChunkSettings
from active_reading.augment.dedupe import DedupeSettings
from active_reading.augment.export import ExportSettings
from active_reading.augment.filter import FilterSettings
from active_reading.augment.ingest import DATASET, IngestSettings
from active_reading.augment.judge import JudgeSettings
from active_reading.augment.settings import GenerateSettings
from active_reading.augment.sources import LocalFolder, is_url
from active_reading.eval.settings import EvaluateSettings
from active_reading.train.settings import TrainSettings, complaint

DEMO = Path(__file__).parent / "demo"
DEFAULT_MODEL = "SmolLM2-135M-Instruct"


class Study(BaseModel):
    """Everything one run depends on."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[\w][\w .-]*$",
        description="names the output folder and the report; none: that of the study's file or folder",
    )
    output: LocalFolder = Field("", description="output folder; empty: runs/<name>")
    model: str = Field(DEFAULT_MODEL, description="generator and student: a Hugging Face id or a folder")
    corpus: IngestSettings
    chunk: ChunkSettings = ChunkSettings()
    generate: GenerateSettings = GenerateSettings()
    filter: FilterSettings = FilterSettings()
    judge: JudgeSettings = JudgeSettings()
    dedupe: DedupeSettings = DedupeSettings()
    decontaminate: bool = Field(True, description="keep what the evaluation asks out of the data set")
    export: ExportSettings = ExportSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @property
    def root(self) -> Path:
        """The output folder, absolute."""
        return Path(self.output or Path("runs") / self.name).expanduser().absolute()

    def in_full(self) -> dict[str, Any]:
        """Every setting, and no path that depends on the working folder."""
        values = self.model_dump() | {"output": str(self.root)}
        resolve_paths(values, Path.cwd())
        return values

    def to_yaml(self) -> str:
        """The study in full, as `study_flow` takes it and the output folder shows it."""
        return yaml.safe_dump(self.in_full(), sort_keys=False)


def load_study(target: str, overrides: list[str]) -> Study:
    """The study in a YAML file, or one with default settings on a folder of documents.

    `overrides` are `section.key=value`, the value in YAML. Raises ValueError, in one line, for anything
    that is wrong.
    """
    if not target.strip():
        raise ValueError("the path of the study or folder is empty")
    path = Path(target).expanduser()
    if _is_elsewhere({"path": target}):
        values = _study_of_corpus(target)
    else:
        values = _read_yaml(path) if path.suffix in (".yaml", ".yml") else _study_of_folder(path)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(detail) for detail in error.errors())) from error


def demo_study(overrides: list[str]) -> Study:
    """The study that ships with the package."""
    return load_study(str(DEMO / "study.yaml"), overrides)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"study file {path} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a day that no calendar has is a ValueError
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold sections such as 'corpus:' and 'train:'")
    values.setdefault("name", path.stem)
    resolve_paths(values, path.parent.absolute())
    return values


def resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make the file's paths absolute; a model is a path when there is such a folder."""

    def resolve(part: Any, key: str) -> None:
        if isinstance(part, dict) and isinstance(part.get(key), str) and part[key] and not is_url(part[key]):
            part[key] = str(base / Path(part[key]).expanduser())

    resolve(values, "output")
    if not _is_elsewhere(values.get("corpus")):
        resolve(values.get("corpus"), "path")
    resolve(values.get("generate"), "template_folder")
    resolve(values.get("dedupe"), "earlier")
    resolve(values.get("train"), "background")
    if not _is_dataset(values.get("evaluate"), "questions"):
        resolve(values.get("evaluate"), "questions")
    tasks = values["evaluate"].get("tasks") if isinstance(values.get("evaluate"), dict) else None
    for use in tasks if isinstance(tasks, list) else []:
        resolve(use, "data")
        if isinstance(use, dict) and str(use.get("name")).endswith((".yaml", ".yml")):
            resolve(use, "name")
    generate = values["generate"] if isinstance(values.get("generate"), dict) else {}
    models = [(values, "model"), (values.get("dedupe"), "semantic_model")]
    if not generate.get("endpoint"):  # whose models are not folders here
        models += [(values.get("judge"), "model"), (values.get("evaluate"), "grade")]
    for part, key in models:
        named = part.get(key) if isinstance(part, dict) else None
        if named and named != DEFAULT_MODEL and (base / Path(str(named)).expanduser()).is_dir():
            resolve(part, key)
    templates, own = generate.get("templates"), generate.get("template_folder")
    for use in templates if isinstance(templates, list) else []:
        for key in ("template", "apply"):
            is_file = isinstance(use, dict) and str(use.get(key)).endswith(".j2")
            if is_file and not (own and Path(str(own), use[key]).is_file()):  # there it is found by its name
                resolve(use, key)


def _is_elsewhere(corpus: Any) -> bool:
    """Whether the corpus is a URL or a data set by name, which no folder is put before."""
    path = str(corpus.get("path")) if isinstance(corpus, dict) else ""
    return is_url(path) or path.startswith(DATASET)


def _is_dataset(section: Any, key: str) -> bool:
    return isinstance(section, dict) and str(section.get(key)).startswith(DATASET)


def _study_of_corpus(target: str) -> dict[str, Any]:
    name = re.sub(r"[^\w.-]+", "-", target.rstrip("/").rpartition("/")[2]).strip("-.") or "study"
    return {"name": name, "corpus": {"path": target}}


def _study_of_folder(path: Path) -> dict[str, Any]:
    name = re.sub(r"[^\w.-]+", "-", path.absolute().name).strip("-.") or "study"
    values: dict[str, Any] = {"name": name, "corpus": {"path": str(path.absolute())}}
    questions = path / "questions.jsonl"
    if questions.is_file():
        values["evaluate"] = {"questions": str(questions.absolute())}
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key.strip():
        raise ValueError(f"'{override}' is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"the value in '{override}' is not valid YAML") from error
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"'{override}': '{section}' is not a section")
    values[last] = value


def _explain(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f", did you mean '{close[0]}'?" if close else ""
        return f"unknown key '{key}'{hint} (allowed: {', '.join(allowed)})"
    if detail["type"] == "missing":
        return f"'{key}' is missing"
    return complaint(detail)


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Study
    for part in location:
        if isinstance(part, str):
            model = section_of(model.model_fields[part].annotation)
    return list(model.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings that a field holds, alone, as items of a list or beside None; None for a plain value."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
