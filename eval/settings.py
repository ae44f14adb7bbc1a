"""Settings of the evaluation: no torch here, so that a configuration is checked at once."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

QUESTION_FORMAT = "Question: {question}\nAnswer:"
SHIPPED_TASKS = Path(__file__).parent / "tasks"


class TaskUse(BaseModel):
    """One task of lm-evaluation-harness."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        min_length=1, description="the harness's name of it (its data comes from the hub), ours, or a .yaml"
    )
    data: str | None = Field(None, description="the local file that a task of ours reads")
    limit: int = Field(0, ge=0, description="only the first so many items; 0: all")
    few_shot: int | None = Field(None, ge=0, description="worked examples; empty: as many as the task says")

    @property
    def definition(self) -> Path | None:
        """The YAML file of a task that ships with this package or is the user's own; None for the harness's."""
        shipped = SHIPPED_TASKS / f"{self.name}.yaml"
        return Path(self.name) if self.name.endswith((".yaml", ".yml")) else shipped if shipped.is_file() else None

    @property
    def files(self) -> list[Path]:
        """The task's own files: its definition with what it may use, and its data, where it has them."""
        definition, data = self.definition, Path(self.data) if self.data else None
        own = _used_by(definition) if definition and definition.parent != SHIPPED_TASKS else []
        return [path for path in (definition, *own, data) if path]

    @model_validator(mode="after")
    def _data_fits(self) -> Self:
        shipped = (SHIPPED_TASKS / f"{self.name}.yaml").is_file()
        if shipped and not self.data:
            raise ValueError(f"the task {self.name} reads a local file: name it, data=FILE")
        if self.data and not self.definition:
            known = ", ".join(sorted(path.stem for path in SHIPPED_TASKS.glob("*.yaml")))
            raise ValueError(f"the task {self.name} is the harness's own and reads no local file; ours are {known}")
        return self


def _used_by(definition: Path) -> list[Path]:
    """The definition that a user's own one includes, and the modules beside it, which its functions may be of."""
    try:
        words = definition.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []  # told where the file is checked
    included = [definition.parent / name for name in re.findall(r"^include:\s*(\S+)", words, re.MULTILINE)]
    return [*included, *sorted(path for path in definition.parent.glob("[!.]*.py") if path.is_file())]


class EvaluateSettings(BaseModel):
    """What every model is asked."""

    model_config = ConfigDict(extra="forbid")

    questions: str | None = Field(
        None,
        description="gold questions on the corpus: JSON lines, SQuAD's format (.json), hf:NAME or hf:NAME:CONFIG",
    )
    questions_split: str = Field("validation", min_length=1, description="of a data set of questions")
    make_questions: int = Field(
        0, ge=0, description="gold questions that the generator makes, at most so many a document; 0: none"
    )
    tasks: list[TaskUse] = Field([], description="standard tasks, run by lm-evaluation-harness")
    few_shot: int = Field(5, ge=0, le=5, description="worked examples before each question")
    question_format: str = Field(
        QUESTION_FORMAT,
        description="how a question is put, in the worked examples too; the answer follows after a space",
    )
    max_new_tokens: int = Field(16, ge=1, description="longest answer")
    batch_size: int = Field(32, ge=1, description="questions or texts that are read at once")
    general_limit: int = Field(
        0, ge=0, description="use only the first so many items of each retention set; 0: all"
    )
    divergence_texts: int = Field(
        16, ge=0, description="how many new and general texts the distance to the base is measured on; 0: none"
    )
    grade: str = Field(
        "",
        description="a model that grades gold answers: a Hugging Face id, a folder, or with an endpoint its name "
        "there; empty: none",
    )
    ceilings: bool = Field(True, description="ask the base with the passage that holds the answer, and with search")

    @field_validator("question_format")
    @classmethod
    def _holds_the_question(cls, form: str) -> str:
        if "{question}" not in form or form != form.rstrip():
            raise ValueError(
                "must hold {question} and end in a word or mark, which the answer follows after a space"
            )
        return form

    @property
    def task_data(self) -> dict[str, str]:
        """The local file of each task that reads one; tasks that share a file are named once."""
        names = {task.data: task.name for task in self.tasks if task.data}
        return {name: path for path, name in names.items()}

    @model_validator(mode="after")
    def _tasks_differ(self) -> Self:
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the task {name} is named {names.count(name)} times: leave it once")
        return self
