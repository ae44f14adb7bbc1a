"""Templates: Jinja files with YAML front matter, rendered strictly and in a sandbox.

In: a template name (shipped) or a path to a `.j2` file. Out: chat messages for the generator.
A missing variable, an unknown front-matter field or a broken template is an error that names the file.
NOT covered: how an answer is parsed (that is `augment`).
"""

import hashlib
import json
import re
import traceback
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2
import jinja2.meta
import jinja2.sandbox
import yaml

FOLDER = Path(__file__).parent / "templates"
JUDGING = Path(__file__).parent / "judging"  # templates that ask whether a text is true to its chunk
EVALUATION = Path(__file__).parent / "evaluation"  # templates whose answers are never learned: they are asked
VARIABLES = frozenset({"text", "title", "heading", "strategy", "num_items", "task"})
# Every template must render these.
SAMPLE = {
    **{"text": "A text.", "title": "A title", "heading": "A part", "strategy": "A strategy", "num_items": 2},
    **{"statement": "A statement.", "question": "A question?", "task": "A task"},
}
Answer = Literal["text", "questions", "strategies", "yes_no"]
_FRONT_MATTER = re.compile(r"\s*^---[ \t]*\n(?P<fields>.*?)^---[ \t]*\n(?P<body>.*)", re.DOTALL | re.MULTILINE)
_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class Template:
    """One prompt template.

    `answer` says what the generator writes: running `text`, `questions` with answers, study `strategies` (which
    another template applies), or `yes_no`, of which the probability of a yes is kept. `examples` are few-shot
    turns: each gives the template's variables and the `answer` that the model should have written.
    """

    name: str
    path: str
    version: int
    answer: Answer
    source: str
    body: str
    examples: tuple[dict[str, Any], ...] = ()
    schema: dict[str, Any] | None = None  # of the JSON that the generator must write

    @cached_property
    def hash(self) -> str:
        """Hash of the file's text: any edit makes new requests."""
        return hashlib.blake2b(self.source.encode(), digest_size=8).hexdigest()

    @cached_property
    def variables(self) -> set[str]:
        """Names that the template's body uses."""
        return jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(self.body))

    @property
    def needs_strategy(self) -> bool:
        return "strategy" in self.variables

    def messages(self, **values: Any) -> list[dict[str, str]]:
        """Chat messages: the examples as earlier turns, then the prompt itself.

        Raises ValueError, with the template's file and line, when a variable is missing.
        """
        turns: list[dict[str, str]] = []
        for example in self.examples:
            turns.append({"role": "user", "content": self._render(example)})
            turns.append({"role": "assistant", "content": str(example["answer"]).strip()})
        return [*turns, {"role": "user", "content": self._render(values)}]

    def _render(self, values: dict[str, Any]) -> str:
        try:
            return _ENVIRONMENT.from_string(self.body).render(**values).strip()
        except Exception as error:  # a template is its author's code: whatever it raises is its mistake
            trace = traceback.walk_tb(error.__traceback__)
            lines = [line for frame, line in trace if frame.f_code.co_filename == "<template>"]
            place = f"{self.path}:{self.line_of_file(lines[-1])}" if lines else self.path
            raise ValueError(f"{place}: does not render: {error}") from error

    def line_of_file(self, line: int) -> int:
        """Where a line of the body stands in the file; both count from 1."""
        return self.source[: len(self.source) - len(self.body)].count("\n") + line


def available_templates() -> list[str]:
    """Names of the templates that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.j2"))


def load_template(name: str, folder: str = "", variables: frozenset[str] = VARIABLES) -> Template:
    """Load a shipped template by name, or any `.j2` file by path; a file in the user's `folder` goes first.

    `variables` are those that the caller fills in.
    Raises ValueError, with the file and where possible the line, when it does not exist, its front matter has
    unknown, missing or unused fields, or its body uses a variable that no stage fills in.
    """
    if folder and not Path(folder).is_dir():
        raise ValueError(f"template folder {folder} does not exist")
    path = Path(name) if name.endswith(".j2") else FOLDER / f"{name}.j2"
    if folder and (own := Path(folder) / (name if name.endswith(".j2") else f"{name}.j2")).is_file():
        path = own
    if not path.is_file():
        if name.endswith(".j2"):
            raise ValueError(f"template file {path} does not exist")
        known = sorted({*available_templates(), *(file.stem for file in Path(folder).glob("*.j2") if folder)})
        raise ValueError(f"unknown template '{name}': use one of {', '.join(known)} or a path to a .j2 file")
    try:
        source = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    fields, body = _split_front_matter(source, path)
    template = Template(name=path.stem, path=str(path), source=source, body=body, **fields)
    try:
        unknown = template.variables - variables
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"{path}:{template.line_of_file(error.lineno)}: {error.message}") from error
    if unknown:
        place = f"{path}:{_line(source, min(unknown), len(source) - len(body))}"
        raise ValueError(
            f"{place}: undefined variable '{min(unknown)}' (available: {', '.join(sorted(variables))})"
        )
    if "text" not in template.variables:
        raise ValueError(f"{path}: never uses 'text', so that it would ask the same of every chunk")
    for example in template.examples:
        if unused := set(example) - template.variables - {"answer"}:
            place = f"{path}:{_line(source, min(unused, key=str))}"
            raise ValueError(f"{place}: an example gives '{min(unused, key=str)}', which the template never uses")
    for values in (*template.examples, SAMPLE):
        template._render(values)
    return template


def _line(source: str, word: object, begin: int = 0) -> int:
    """Number of the first line at or after character `begin` that has the word."""
    match = re.compile(rf"\b{re.escape(str(word))}\b").search(source, begin)
    return source.count("\n", 0, match.start() if match else begin) + 1


def _split_front_matter(source: str, path: Path) -> tuple[dict[str, Any], str]:
    parts = _FRONT_MATTER.fullmatch(source)
    if parts is None:
        raise ValueError(f"{path}: a template begins with front matter between two '---' lines")
    try:
        fields = yaml.safe_load(parts["fields"])
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise ValueError(f"{path}: front matter is not valid YAML: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: front matter must be fields such as 'version: 1'")
    allowed = {"version", "answer", "examples", "schema"}
    for key in fields:
        if key not in allowed:
            place = f"{path}:{_line(source, key)}"
            raise ValueError(f"{place}: unknown field '{key}' (allowed: {', '.join(sorted(allowed))})")
    if not isinstance(fields.get("version"), int) or fields.get("answer") not in get_args(Answer):
        raise ValueError(
            f"{path}: needs 'version' (a whole number) and 'answer' (one of {', '.join(get_args(Answer))})"
        )
    examples = fields.pop("examples", None) or []
    if not isinstance(examples, list):
        raise ValueError(f"{path}: 'examples' must be a list")
    for example in examples:
        if not isinstance(example, dict) or "answer" not in example:
            raise ValueError(f"{path}: every example needs an 'answer' and the template's variables")
    if not isinstance(fields.get("schema", {}), dict):
        raise ValueError(f"{path}: 'schema' must be a JSON schema, such as 'schema: {{type: object}}'")
    try:
        json.dumps(fields.get("schema"), allow_nan=False)
    except (TypeError, ValueError) as error:
        hint = " (a date is text between quotes)" if isinstance(error, TypeError) else ""
        place = f"{path}:{_line(source, 'schema')}"
        raise ValueError(f"{place}: 'schema' is not JSON: {error}{hint}") from error
    return {**fields, "examples": tuple(examples)}, parts["body"]
