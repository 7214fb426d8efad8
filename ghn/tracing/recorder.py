"""Sees the PyTorch calls of a forward pass, without doing what they say.

`Recorder` is a `TorchFunctionMode` that keeps a `DataFlow`. Tensors are meta tensors: shapes come
from `shape_rules` or from PyTorch's meta kernels, parameters and buffers are replaced by meta twins
as soon as they are touched, so that nothing is computed and nothing of the network changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode

from ghn.errors import TraceError
from ghn.tracing.channels import Channels
from ghn.tracing.dataflow import DataFlow, NodeRule
from ghn.tracing.nest import map_tensors, tensors_of
from ghn.tracing.shape_rules import SHAPE_RULES

_QUERIES: set[Any] = {
    Tensor.dim,
    Tensor.size,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.stride,
    Tensor.__len__,
}
_QUERIES |= {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "ndim", "is_meta", "requires_grad", "is_cuda",
                 "is_quantized", "is_nested",
                 "layout", "is_sparse", "grad_fn", "is_leaf", "itemsize", "nbytes",
                 "_backward_hooks")
}  # fmt: skip

_NAMES = {
    "axis": "dim", "keepdims": "keepdim", "x": "input", "a": "input", "x1": "input", "x2": "other",
}  # fmt: skip
"""NumPy's names of arguments, which PyTorch takes as well, and those that rules know."""

_DEVICE: set[Any] = {Tensor.device.__get__}

_VALUE_QUERIES: set[Any] = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__,
    Tensor.numpy,
}  # fmt: skip

_DEVICE_MOVES: set[Any] = {Tensor.to, Tensor.cpu, Tensor.cuda}

CONSTANTS: set[Any] = {
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor,
    torch.zeros_like,
    torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like,
}  # fmt: skip
"""Functions that take a tensor for its shape or type alone."""

PRODUCTS: set[Any] = {
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm,
    torch.einsum,
}  # fmt: skip
"""Products of two tensors; what multiplies a softmax with its values."""


class Recorder(DataFlow, TorchFunctionMode):
    """Follows tensors through a forward pass.

    Args:
        params: the network's parameters by name; a shared one once.
        buffers: the network's buffers.
        rules: from functions to what they leave in the record; others make no node.
        symbolic: False runs the operations on the tensors as they are, for a network whose control
            flow depends on the values of activations.
        device: where meta tensors say that they are, as the network's would be; `torch.autocast`
            knows no meta device.
        constants: other tensors that the network holds.

    Attributes:
        channels: which channels the columns of weights read, where they are shuffled.
        returned: the type of what the network returned, if no tensor was found in it.
    """

    returned = ""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        buffers: Iterable[Tensor],
        rules: Mapping[Callable[..., Any], NodeRule],
        symbolic: bool = True,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (immutable)
        constants: Iterable[Tensor] = (),
    ) -> None:
        super().__init__(params)
        buffers = list(buffers)
        self.device = device
        self.channels = Channels(self.param)
        self.rules = rules
        self.symbolic = symbolic
        self._registered = self._params.keys() | {id(buffer) for buffer in buffers}
        self._twins: dict[int, Tensor] = {}
        self._left_for_numpy = False
        self.know([*params.values(), *buffers, *constants])

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _QUERIES:
            return func(*args, **kwargs)
        if func in _DEVICE:
            device = func(*args)
            return self.device if self.symbolic and device.type == "meta" else device
        involved = tensors_of((args, kwargs) if kwargs else args)
        for tensor in involved:
            if id(tensor) not in self._known:
                self._meet(tensor, getattr(func, "__name__", str(func)))
        named = {_NAMES.get(name, name): value for name, value in kwargs.items()}
        result: Any = NotImplemented
        if (
            self.symbolic
            and (shape := SHAPE_RULES.get(func)) is not None
            and self._is_symbolic(args)
        ):
            result = shape(*args, **named)
        if result is NotImplemented:
            result = self._run(func, args, kwargs, involved)
        results = tensors_of(result)
        if args and isinstance(args[0], Tensor) and args[0]._base is not None:
            self.note_views(results, args[0])
        self.know(results)
        self.channels.follow(func, result, args, named)
        if (record := self.rules.get(func)) is not None:
            record(self, result, *args, **named)
        elif func in CONSTANTS:
            return result
        elif isinstance(result, (Tensor, tuple, list)):
            self.pass_on(result, involved, product=func in PRODUCTS)
        elif func is Tensor.__setitem__:
            self.pass_on(args[0], tensors_of(args))
        else:
            return result
        if func is Tensor.__setitem__ or (
            isinstance(result, Tensor) and args and result is args[0]
        ):
            self.also_base(args[0])
        elif args and result is not None and result is self._twins.get(id(args[0])):
            self.tag(args[0], self.source(result))  # a constant, changed in place by its twin
            self.also_base(args[0])
        return result

    def check_output(self, tensor: Tensor) -> None:
        """Notes where an output of the network comes from if no call has been seen to make it."""
        if id(tensor) not in self._known:
            self._meet(tensor, "the output")

    def _meet(self, tensor: Tensor, consumer: str) -> None:
        """Decides what a tensor is that no call has been seen to make.

        On meta tensors a real one is a constant of the program. Among real tensors one over memory
        of NumPy is, as long as no data of the network has gone there.
        """
        if tensor.is_meta:
            constant = False
        elif self.symbolic:
            constant = True
        else:
            constant = _is_of_numpy(tensor) and not self._left_for_numpy
        if constant:
            self.know([tensor])
        else:
            self.hide(tensor, consumer)

    def _is_symbolic(self, args: tuple[Any, ...]) -> bool:
        """Whether the first tensor argument has no values, or is the network's own and must not be
        computed with.
        """
        first = args[0] if args else None
        if isinstance(first, (list, tuple)):
            first = first[0] if first else None
        return isinstance(first, Tensor) and (first.is_meta or id(first) in self._registered)

    def _run(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        involved: list[Tensor],
    ) -> Any:
        """Runs `func` by PyTorch's kernel: on meta twins if any tensor is a meta tensor or the
        network's own.

        Arithmetic among constants that the forward pass makes itself (position indices, masks)
        stays real.
        """
        if isinstance(func, (OpOverload, OpOverloadPacket)):
            self._refuse_exported(func, involved)
        if not self.symbolic:
            if func is Tensor.numpy and self.source(args[0]) is not None:
                self._left_for_numpy = True
            return func(*args, **kwargs)
        real = [tensor for tensor in involved if not tensor.is_meta]
        if len(real) == len(involved) and not any(
            id(tensor) in self._registered for tensor in real
        ):
            return func(*args, **kwargs)
        if func in _VALUE_QUERIES and not args[0].is_meta:
            return func(*args, **kwargs)
        if func in _DEVICE_MOVES:
            args, kwargs = _without_device(args, kwargs)
            func = Tensor.to if args[1:] or kwargs else Tensor.view_as
            args = args if args[1:] or kwargs else (args[0], args[0])
        if not real:
            return func(*args, **kwargs)
        return func(*self._to_meta(args), **self._to_meta(kwargs))

    def _refuse_exported(self, func: Any, involved: list[Tensor]) -> None:
        names = [name for tensor in involved if (name := self.param(tensor))]
        if names and str(func).startswith("aten"):
            raise TraceError(
                f"{names[0]} is used by the operator {func}, as in modules of torch.export, whose"
                " layers cannot be told; trace the program itself, or the module that was exported"
            )

    def _to_meta(self, value: Any) -> Any:
        return map_tensors(self._twin, value)

    def _twin(self, tensor: Tensor) -> Tensor:
        """The meta tensor that stands for `tensor`, the same each time."""
        if tensor.is_meta:
            return tensor
        twin = self._twins.get(id(tensor))
        if twin is None:
            twin = self._twins[id(tensor)] = torch.empty_like(tensor, device="meta")
            self.know([tensor, twin])
            if id(tensor) in self._params:
                self._derived[id(twin)] = (self._params[id(tensor)][0],)
        return twin


def _without_device(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kept = tuple(arg for arg in args[1:] if isinstance(arg, (torch.dtype, Tensor)))
    return (args[0], *kept), {
        key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")
    }


def _is_of_numpy(tensor: Tensor) -> bool:
    """Whether a tensor's memory is not PyTorch's own."""
    try:
        return not tensor.untyped_storage().resizable()
    except (RuntimeError, NotImplementedError):  # no storage, inside `torch.vmap`
        return False
