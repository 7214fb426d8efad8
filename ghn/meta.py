"""Networks without values: on the meta device, quickly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def without_values() -> Iterator[None]:
    """Within it, modules get their parameters on the meta device and initialise none of them.

    `torch.device("meta")` would send every tensor there, also those whose values decide the
    architecture (the block widths of RegNet), and would run the initialisers' meta kernels, which
    are slow: half a second for a ViT-L, and two more for the first of them, which imports the
    compiler.
    """
    with torch.device("cpu"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    """Sends `torch.empty`, which is how layers make their parameters, to the meta device; skips
    in-place changes there.

    What a module makes in another way (a layer scale of ones) stays on the CPU, for `Module.to` to
    move.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            return func(*args, **{**kwargs, "device": "meta"})
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.startswith("_"):
            # the initialisers of `nn.init` pass it by name
            changed = args[0] if args else kwargs.get("tensor")
            if isinstance(changed, Tensor) and changed.is_meta:
                return changed
        return func(*args, **kwargs)
