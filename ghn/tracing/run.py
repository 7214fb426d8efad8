"""The graph of any network, found by following one forward pass that computes nothing.

`inputs` makes up an input; `recorder` sees the calls of the forward pass; `dataflow` notes what
flows where, by the rules in `node_rules`; `shape_rules` gives the shapes; `reduce` keeps the
operations that are primitives; `quirks` bends the result into the graph that the released
hypernetworks know.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.graph.graph import Graph
from ghn.tracing import quirks
from ghn.tracing.dataflow import tensors_of
from ghn.tracing.inputs import default_inputs
from ghn.tracing.node_rules import NODE_RULES
from ghn.tracing.recorder import Recorder
from ghn.tracing.reduce import reduce, with_linear_head


def trace(
    model: nn.Module, example_inputs: Any = None, *, reference_compatible: bool = True
) -> Graph:
    """The computational graph of `model` (paper section 3.1; `docs/graphs.md` has the rules).

    Nothing is computed: parameters may be anywhere, on the meta device too, and stay as they are,
    as do train and eval
    modes, buffers and gradients. The graph does not depend on the mode: it is that of eval mode,
    or, for a network that
    has heads for training only (GoogLeNet, Inception), that of train mode.

    Args:
        model: any module. Wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`
            are seen through; parameter names are those of `model.named_parameters()`.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments. Only
            shapes and dtypes matter. By default an input is made up from the first layer
            (`default_inputs`).
        reference_compatible: True gives the graph that the released checkpoints know, quirks
            included (listed in `ghn.tracing.quirks`); False the graph as the rules have it.

    Raises:
        TraceError: the forward pass fails on these inputs, or has control flow that depends on
            activations while the parameters are on the meta device, or hides how its outputs come
            about.
    """
    network = _Network(model)
    if isinstance(network.inner, torch.jit.ScriptModule):
        raise TraceError(
            "a ScriptModule hides its operations; trace the module that it was compiled from"
        )
    candidates = default_inputs(network.inner) if example_inputs is None else [example_inputs]
    inputs, recorder, outputs = _first_that_fits(network, candidates)
    if missed := network.params.keys() - recorder.touched:
        with contextlib.suppress(TraceError):
            training = _record(network, inputs, training=True)
            if missed & training[0].touched:
                recorder, outputs = training
    if not outputs:
        raise TraceError(
            f"{network.name}: no output follows from the inputs by operations that can be seen"
            " (torch.vmap and compiled extensions hide theirs)"
        )
    operations = recorder.operations
    if reference_compatible:
        operations = quirks.adapt_operations(operations)
    graph = reduce(operations, outputs, network.name)
    return with_linear_head(quirks.adapt_graph(graph) if reference_compatible else graph)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def shape_propagation(model: nn.Module, *inputs: Tensor) -> Any:
    """The outputs of `model` on meta tensors, as meta tensors, without computing anything."""
    network = _Network(model)
    with torch.no_grad(), Recorder(network.params, network.buffers, {}):
        return model(*inputs)


class _Network:
    """A module and what a trace asks of it again and again.

    Attributes:
        inner: the module without wrappers; the one that runs.
        name: of its class.
        modules: all of them, the wrappers too.
        params: by name; a shared one once, under its first name.
        buffers: all of them.
    """

    def __init__(self, model: nn.Module):
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


_Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


def _arguments(inputs: Any) -> _Inputs:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _first_that_fits(
    network: _Network, candidates: Sequence[Any]
) -> tuple[_Inputs, Recorder, list[int]]:
    """Records the eval-mode pass on the first of `candidates` that the network takes."""
    for candidate in candidates[:-1]:
        with contextlib.suppress(TraceError):
            return _arguments(candidate), *_record(network, _arguments(candidate), training=False)
    inputs = _arguments(candidates[-1])
    return inputs, *_record(network, inputs, training=False)


def _record(network: _Network, inputs: _Inputs, training: bool) -> tuple[Recorder, list[int]]:
    """Runs the network under a recorder: on meta tensors, or, if its control flow needs values, for
    real.
    """
    try:
        return _run(network, inputs, training, symbolic=True)
    except Exception as symbolic_error:
        error: Exception = symbolic_error
        advice = "pass example_inputs that its forward takes"
        if any(param.is_meta for param in network.params.values()):
            advice += ", and give it real parameters if its control flow depends on values"
        else:
            try:
                return _run(network, inputs, training, symbolic=False)
            except Exception as real_error:
                error = real_error
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        raise TraceError(
            f"{network.name} fails on inputs of shape {shapes}: {error}; {advice}"
        ) from error


def _run(
    network: _Network, inputs: _Inputs, training: bool, symbolic: bool
) -> tuple[Recorder, list[int]]:
    recorder = Recorder(network.params, network.buffers, NODE_RULES, symbolic)
    devices = [param.device for param in network.params.values()]
    device = torch.device("meta") if symbolic or not devices else devices[0]
    args, kwargs = _placed(inputs, device)
    for tensor in tensors_of((args, kwargs)):
        recorder.mark_input(tensor)
    with (
        _undisturbed(network, training, keep_values=not symbolic),
        _eager(),
        torch.no_grad(),
        recorder,
    ):
        result = network.inner(*args, **kwargs)
    outputs = dict.fromkeys(
        source for t in tensors_of(result) if (source := recorder.source(t)) is not None
    )
    return recorder, list(outputs)


def _placed(value: Any, device: torch.device) -> Any:
    """`value` with its tensors on `device`: fresh ones, so that none of them is the caller's."""
    if isinstance(value, Tensor):
        if device.type == "meta":
            return torch.empty_like(value, device=device)
        return (
            torch.zeros_like(value, device=device)
            if value.is_meta
            else value.detach().to(device, copy=True)
        )
    if isinstance(value, (tuple, list)):
        return type(value)(_placed(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _placed(item, device) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _undisturbed(network: _Network, training: bool, keep_values: bool) -> Iterator[None]:
    """Puts the network in the mode asked for, and afterwards every module back as it was.

    That is: modes, which tensors are its buffers, and what a forward pass may keep on `self`
    (tables of anchors or
    rotations, made for the device of the input), so that no meta tensor stays behind.
    """
    attributes = [(module.__dict__, dict(module.__dict__)) for module in network.modules]
    buffers = [
        (module._buffers, dict(module._buffers)) for module in network.modules if module._buffers
    ]
    values = [(buffer, buffer.clone()) for buffer in network.buffers] if keep_values else []
    try:
        for module in network.modules:
            module.training = training
        yield
    finally:
        for current, before in (*attributes, *buffers):
            current.clear()
            current.update(before)
        for buffer, value in values:
            buffer.copy_(value)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Has functions and modules wrapped by `torch.compile` run as they were written."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
