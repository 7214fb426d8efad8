"""YAML files of settings: read as mappings, laid one over the other, wrong fields explained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flows.words import counted
from ghn.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
LAPTOP = "laptop"
"""The profile of params.yaml as committed."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError if there is none."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        advice = "; run this in the root of the tree" if Path(path).name == "params.yaml" else ""
        raise ConfigError(f"{path} does not exist{advice}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes, dates, depth
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def find_profile(folder: Path, name: str) -> Path:
    """The file of profile `name` in `folder`. Raises ConfigError naming those that there are."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        names = ", ".join(profiles(folder))
        raise ConfigError(f"unknown profile {name!r}; in {folder} there are {names}")
    return path


def profiles(folder: Path) -> list[str]:
    """Names of the profiles in `folder`, and `laptop`, which params.yaml itself is."""
    return sorted({LAPTOP, *(path.stem for path in folder.glob("*.yaml"))})


def merge(tree: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the leaves of `overlay` in place of its own."""
    merged = dict(tree)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse(model: type[Model], tree: Mapping[str, Any], source: str) -> Model:
    """`tree` as a `model`; `source` names it in messages.

    Raises:
        ConfigError: a field is missing, unknown or has a value that is not allowed; the message has
            a line per problem with field, value and what is allowed.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, dict(problem)) for problem in error.errors()]
        raise ConfigError(
            "\n".join([f"{source}: {counted(len(lines), 'problem')}", *lines])
        ) from None


def _explain(model: type[BaseModel], problem: dict[str, Any]) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    field = ".".join(str(part) for part in location)
    match problem["type"]:
        case "extra_forbidden":
            known = ", ".join(_siblings(model, location))
            return f"  {field}: unknown{f'; allowed: {known}' if known else ''}"
        case "missing":
            return f"  {field}: missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not message[:2].isupper():  # as the name of a class is
        message = message[0].lower() + message[1:]
    return f"  {field} = {problem['input']!r}: {message}"


def _siblings(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """The fields that may stand where `location` does."""
    for part in location[:-1]:
        fields = {
            field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()
        }
        if part not in fields:
            return []
        annotation = fields[str(part)].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
