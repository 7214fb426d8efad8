"""The graph of any network, found by following one forward pass that computes nothing.

The work is in four modules: `trace_record` sees the calls of the forward pass and notes what flows where,
`trace_shapes` gives the shapes, `trace_reduce` keeps the operations that are primitives, `compat` bends the result into
the graph that the released hypernetworks were trained with.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.graph import compat
from ghn.graph.graph import Graph
from ghn.graph.trace_record import Recorder, tensors_of
from ghn.graph.trace_reduce import reduce, with_linear_head

BATCH_SIZE = 2
"""Of the images made up for a network; more than one, so that a `squeeze` of the batch dimension does no harm."""


def trace(model: nn.Module, example_inputs: Any = None, *, reference_compatible: bool = True) -> Graph:
    """The computational graph of `model` (paper section 3.1; `docs/graphs.md` has the rules).

    Nothing is computed: parameters may be anywhere, on the meta device too, and stay as they are, as do train and eval
    modes, buffers and gradients. The graph does not depend on the mode: it is that of eval mode, or, for a network that
    has heads for training only (GoogLeNet, Inception), that of train mode.

    Args:
        model: any module. Wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel` are seen through;
            parameter names are those of `model.named_parameters()`.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments. Only shapes and dtypes
            matter. By default an input is made up from the first layer: images of the network's own size (its
            `image_size`, timm's configuration, 299 for Inception, else 224), vectors, or token indices.
        reference_compatible: True gives the graph that the released checkpoints know, quirks included (listed in
            `ghn.graph.compat`); False the graph as the rules have it.

    Raises:
        TraceError: the forward pass fails on these inputs, or has control flow that depends on activations and the
            parameters are on the meta device.
    """
    args, kwargs = _as_arguments(default_inputs(model) if example_inputs is None else example_inputs)
    recorder, outputs = _record(model, args, kwargs, training=False)
    missed = {name for name, _ in model.named_parameters()} - recorder.touched
    if missed:
        with contextlib.suppress(TraceError):
            training = _record(model, args, kwargs, training=True)
            if missed & training[0].touched:
                recorder, outputs = training
    operations = recorder.operations
    if reference_compatible:
        operations = compat.adapt_operations(operations)
    graph = reduce(operations, outputs, type(unwrap(model)).__name__)
    return with_linear_head(compat.adapt_graph(graph) if reference_compatible else graph)


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
    with torch.no_grad(), Recorder(model.named_parameters(), model.buffers()):
        return model(*inputs)


def default_inputs(model: nn.Module) -> Tensor:
    """A meta tensor that fits the first layer of `model`.

    Raises:
        TraceError: the first layer with parameters is of no type that tells the input's shape.
    """
    model = unwrap(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            size = _image_size(model)
            return torch.empty(BATCH_SIZE, module.in_channels, *size, dtype=dtype, device="meta")
        if isinstance(module, nn.Linear):
            return torch.empty(BATCH_SIZE, module.in_features, dtype=dtype, device="meta")
        if isinstance(module, nn.Embedding):
            return torch.empty(BATCH_SIZE, 16, dtype=torch.int64, device="meta")
    raise TraceError(f"{type(model).__name__}: cannot tell what its input looks like; pass example_inputs")


def _image_size(model: nn.Module) -> tuple[int, int]:
    """Height and width of the images that `model` is made for."""
    size: Any = getattr(model, "image_size", None)
    if size is None and isinstance(config := getattr(model, "pretrained_cfg", None), Mapping):
        size = config.get("input_size")  # timm
    if size is None:
        size = 299 if type(model).__name__ == "Inception3" else 224
    if isinstance(size, int):
        return size, size
    return int(size[-2]), int(size[-1])


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _record(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool
) -> tuple[Recorder, list[int]]:
    """Runs `model` under a recorder: on meta tensors, or, if its control flow needs values, for real."""
    try:
        return _run(model, args, kwargs, training, symbolic=True)
    except Exception as symbolic_error:
        values = all(not tensor.is_meta for tensor in model.parameters())
        try:
            if not values:
                raise
            return _run(model, args, kwargs, training, symbolic=False)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors_of((args, kwargs))]
            raise TraceError(
                f"{type(unwrap(model)).__name__} fails on inputs of shape {', '.join(map(str, shapes))}: {error}; "
                "pass example_inputs that its forward accepts"
            ) from symbolic_error


def _run(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool, symbolic: bool
) -> tuple[Recorder, list[int]]:
    recorder = Recorder(model.named_parameters(), model.buffers(), symbolic)
    device = torch.device("meta") if symbolic else next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = _placed(args, device), _placed(kwargs, device)
    for tensor in tensors_of((args, kwargs)):
        recorder.mark_input(tensor)
    with _undisturbed(model, training, keep_buffers=not symbolic), _eager(), torch.no_grad(), recorder:
        result = unwrap(model)(*args, **kwargs)
    outputs = dict.fromkeys(source for t in tensors_of(result) if (source := recorder.source(t)) is not None)
    return recorder, list(outputs)


def _placed(value: Any, device: torch.device) -> Any:
    """`value` with its tensors on `device`: fresh ones, so that none of them is the caller's."""
    if isinstance(value, Tensor):
        if device.type == "meta":
            return torch.empty_like(value, device=device)
        return torch.zeros_like(value, device=device) if value.is_meta else value.detach().to(device, copy=True)
    if isinstance(value, (tuple, list)):
        return type(value)(_placed(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _placed(item, device) for key, item in value.items()}
    return value


@contextlib.contextmanager
def _undisturbed(model: nn.Module, training: bool, keep_buffers: bool) -> Iterator[None]:
    """Puts `model` in the mode asked for, and back as it was: modes, and which tensors are its buffers."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()] if keep_buffers else []
    try:
        for module in modules:
            module.training = training
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, tensors in buffers:
            module._buffers.update(tensors)
        for buffer, value in values:
            buffer.copy_(value)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Has functions and modules wrapped by `torch.compile` run as they were written."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
