"""The fields of params.yaml in words: name, type, default and what each means, from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


class Field(NamedTuple):
    """A field.

    Attributes:
        name: dotted, as `-S` takes it.
        kind: its type, as Python writes it.
        default: as JSON; "required" where there is none.
        description: what it means; empty where the name says it.
    """

    name: str
    kind: str
    default: str
    description: str


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    """All fields of a model and of the models in it, in their order."""
    for name, about in model.model_fields.items():
        dotted = f"{prefix}{about.alias or name}"
        inner = _model_of(about.annotation)
        if inner is not None:
            yield from fields(inner, f"{dotted}.")
        else:
            yield Field(dotted, _kind(about.annotation), _default(about), about.description or "")


def is_field(model: type[BaseModel], name: str) -> bool:
    """Whether a dotted name is that of a field; below a mapping any name is."""
    head, _, rest = name.partition(".")
    for key, about in model.model_fields.items():
        if head != (about.alias or key):
            continue
        inner = _model_of(about.annotation)
        if not rest:
            return True
        if inner is None or _is_mapping(about.annotation):
            return _is_mapping(about.annotation)
        return is_field(inner, rest)
    return False


def to_markdown(found: Sequence[Field], sections: bool = True) -> str:
    """A table of Markdown, or one per section."""
    lines: list[str] = []
    section = None
    for field in found:
        if (head := field.name.split(".")[0] if sections else "") != section:
            section = head
            lines += ["", f"## {section}"] if sections else []
            lines += ["", "| field | |", "|---|---|"]
        text = field.description.replace("<", "&lt;").replace("|", "\\|")
        kind = field.kind.replace("|", "\\|")
        default = field.default if field.default == "required" else f"default `{field.default}`"
        lines.append(f"| `{field.name}` | {text}{'; ' if text else ''}{kind}, {default} |")
    return "\n".join([*lines, ""])


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field is, or may be; none for lists and mappings of models."""
    optional = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    candidates = get_args(annotation) if optional else (annotation,)
    found = (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return next(found, None)


def _is_mapping(annotation: Any) -> bool:
    return any(get_origin(part) is dict for part in [annotation, *get_args(annotation)])


def _kind(annotation: Any) -> str:
    """A type as Python writes it, without the checks of its values."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin is Union or origin is UnionType:
        return " | ".join(map(_kind, parts))
    if parts:
        return f"{origin.__name__}[{', '.join(map(_kind, parts))}]"
    if annotation is NoneType:
        return "None"
    return "..." if annotation is ... else str(getattr(annotation, "__name__", annotation))


def _default(about: FieldInfo) -> str:
    if about.default_factory is not None:
        value = about.get_default(call_default_factory=True, validated_data={})
    elif about.default is PydanticUndefined:
        return "required"
    else:
        value = about.default
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)
