"""Tensors in nests of containers, as forward passes take and return them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a nest of lists, tuples, mappings and dataclasses, in order."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, Tensor):
                found.append(item)
            elif item is not None and not isinstance(item, (int, float, str)):
                _collect(item, found)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, found)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            _collect(getattr(value, name, None), found)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A nest of the same types with `function` of each tensor; all else is the same object."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [map_tensors(function, item) for item in value]
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    if type(value) is list:
        return [map_tensors(function, item) for item in value]
    if type(value) is dict:
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (list, Mapping)):
        copied: Any = copy.copy(value)
        for key in range(len(value)) if isinstance(value, list) else value:
            copied[key] = map_tensors(function, value[key])
        return copied
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in dataclasses.fields(value):
            mapped = map_tensors(function, getattr(value, field.name))
            object.__setattr__(copied, field.name, mapped)
        return copied
    return value
