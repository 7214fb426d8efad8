"""A network as tracing sees it: without wrappers, its modules and parameters once each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.tracing.dataflow import NodeRule
from ghn.tracing.snapshot import Snapshot


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _refuse_others(model: object) -> None:
    if not isinstance(model, nn.Module):
        made = f", as {model.__name__}() gives" if hasattr(model, "__name__") else ""
        raise TraceError(
            f"pass a network (an nn.Module{made}, or an ExportedProgram), not {model!r:.200}"
        )


class Network:
    """A module and what a trace asks of it again and again.

    Attributes:
        inner: the module without wrappers; the one that runs.
        name: of its class.
        modules: all of them, the wrappers too.
        params: by name; a shared one once, under its first name.
        buffers: all of them.
        snapshot: of the model, once it is followed.
        rules: by which it is followed.

    Raises:
        TraceError: it is no module.
    """

    snapshot: Snapshot
    rules: Mapping[Callable[..., Any], NodeRule]

    def __init__(self, model: nn.Module):
        _refuse_others(model)
        self.inner = unwrap(model)
        self.name = type(self.inner).__name__
        named = list(model.named_modules())
        self.modules = [module for _, module in named]
        self.buffers = [
            buffer
            for module in self.modules
            for buffer in module._buffers.values()
            if buffer is not None
        ]
        self.params: dict[str, Tensor] = {}
        seen: set[int] = set()
        for prefix, module in named:
            for name, param in module._parameters.items():
                if param is not None and id(param) not in seen:
                    seen.add(id(param))
                    self.params[f"{prefix}.{name}" if prefix else name] = param

    @property
    def on_meta(self) -> bool:
        """Whether parameters have no values to run the network with."""
        return any(param.is_meta for param in self.params.values())

    def refuse_opaque(self) -> None:
        """Refuses modules whose operations cannot be seen, and parameters without a shape.

        Raises:
            TraceError: names the module or the parameter.
        """
        for name, module in self.inner.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                where = f"{name} is" if name else "this is"
                raise TraceError(
                    f"{self.name}: {where} a ScriptModule, which hides its operations; trace the"
                    " module that it was compiled from"
                )
        for name, param in self.params.items():
            if isinstance(param, nn.parameter.UninitializedParameter):
                raise TraceError(f"{self.name}.{name} has no shape yet; run the network once first")
