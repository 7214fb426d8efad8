"""Rules for functions of PyTorch, as `TorchFunctionMode` names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R", bound=Callable[..., Any])


class Rules(dict[Callable[..., Any], R]):
    """From a function to its rule."""

    def rule(self, *functions: Callable[..., Any]) -> Callable[[R], R]:
        """Registers what it decorates as the rule of `functions`."""

        def register(function: R) -> R:
            self.update(dict.fromkeys(functions, function))
            return function

        return register
