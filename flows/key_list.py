"""Every key of a study with its default and what it does, as the settings themselves say."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from active_reading.flows.settings import Study, section_of


def list_keys(below: str = "") -> str:
    """A line `key=default` for each key, as a command line takes it, and under it what the key does.

    `below` names a section (`train`, `train.memory`) or a key. Raises ValueError when there is none of that name.
    """
    shown = [
        text
        for key, text in _keys(Study, "")
        if not below or key == below or key.startswith((f"{below}.", f"{below}["))
    ]
    if not shown:
        raise ValueError(f"a study has no section or key '{below}' (it has {', '.join(Study.model_fields)})")
    return "\n".join(shown)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        key = prefix + name
        inner = section_of(field.annotation)
        if inner is None:
            yield key, _shown(key, field)
        elif get_origin(field.annotation) is list:  # the keys of each item; what they are by default is too long
            yield from _keys(inner, f"{key}[].")
        else:
            yield from _keys(inner, f"{key}.")


def _shown(key: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
    words = [field.description or ""]
    if choices := _choices(field.annotation):
        words.append(f"({' | '.join(choices)})")
    if field.is_required() and key != "name":  # which a study has from its file
        words.append("(needed)")
    lines = textwrap.wrap(" ".join(filter(None, words)), 76)
    return "\n".join([f"{key}={default}", *(f"    {line}" for line in lines)])


def _choices(annotation: Any) -> list[str]:
    """The words that are allowed, where it is one of a few."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]
