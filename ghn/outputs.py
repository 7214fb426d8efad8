"""What networks return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ghn.errors import ConfigError


def heads(output: Any) -> list[Tensor]:
    """The main head's logits, then the auxiliary heads' that a network in training may return. Of
    an output with names (a dict, or one of transformers) only `logits`, if there are any.

    Raises:
        ConfigError: there are no logits in the output.
    """
    parts: Sequence[Any]
    if isinstance(output, Mapping):
        parts = [output["logits"]] if "logits" in output else list(output.values())
    else:
        parts = output if isinstance(output, list | tuple) else [output]
    if found := [logits for logits in parts if isinstance(logits, Tensor)]:
        return found
    raise ConfigError(
        f"the network returns a {type(output).__name__} without a tensor of logits; return the"
        ' logits, a tuple that begins with them, or a dict with "logits"'
    )
