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
from torch.overrides import TorchFunctionMode

from ghn.tracing.dataflow import DataFlow, tensors_of
from ghn.tracing.shape_rules import SHAPE_RULES

NodeRule = Callable[..., None]
"""What a function leaves in the record: called with the recorder, the function's result and its
arguments.
"""

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
    for name in ("shape", "dtype", "device", "ndim", "is_meta", "requires_grad", "is_cuda",
                 "is_quantized", "is_nested",
                 "layout", "is_sparse", "grad_fn", "is_leaf", "itemsize", "nbytes",
                 "_backward_hooks")
}  # fmt: skip

_VALUE_QUERIES: set[Any] = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__,
    Tensor.numpy,
}  # fmt: skip

_DEVICE_MOVES: set[Any] = {Tensor.to, Tensor.cpu, Tensor.cuda}

_CONSTANTS: set[Any] = {
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor,
    torch.zeros_like,
    torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like,
}  # fmt: skip
"""Functions that take a tensor for its shape or type alone."""

_PRODUCTS: set[Any] = {
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
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        buffers: Iterable[Tensor],
        rules: Mapping[Callable[..., Any], NodeRule],
        symbolic: bool = True,
    ) -> None:
        super().__init__(params)
        self.rules = rules
        self.symbolic = symbolic
        self._registered = self._params.keys() | {id(buffer) for buffer in buffers}
        self._twins: dict[int, Tensor] = {}

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
        result: Any = NotImplemented
        if (
            self.symbolic
            and (shape := SHAPE_RULES.get(func)) is not None
            and self._is_symbolic(args)
        ):
            result = shape(*args, **kwargs)
        involved: list[Tensor] | None = None
        if result is NotImplemented:
            involved = tensors_of((args, kwargs) if kwargs else args)
            result = self._run(func, args, kwargs, involved)
        if (record := self.rules.get(func)) is not None:
            record(self, result, *args, **kwargs)
        elif func in _CONSTANTS:
            return result
        elif isinstance(result, (Tensor, tuple, list)):
            self.pass_on(
                result,
                tensors_of(args) if involved is None else involved,
                product=func in _PRODUCTS,
            )
        elif func is Tensor.__setitem__:
            self.pass_on(args[0], tensors_of(args))
        else:
            return result
        if func is Tensor.__setitem__ or (
            isinstance(result, Tensor) and args and result is args[0]
        ):
            self.also_base(args[0])
        return result

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
        if not self.symbolic:
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

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            twin = self._twins.get(id(value))
            if twin is None:
                twin = self._twins[id(value)] = torch.empty_like(value, device="meta")
                self._alive.append(value)
                if id(value) in self._params:
                    self._derived[id(twin)] = (self._params[id(value)][0],)
            return twin
        if isinstance(value, (list, tuple)):
            mapped = [self._to_meta(item) for item in value]
            return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
        if isinstance(value, dict):
            return {key: self._to_meta(item) for key, item in value.items()}
        return value


def _without_device(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kept = tuple(arg for arg in args[1:] if isinstance(arg, (torch.dtype, Tensor)))
    return (args[0], *kept), {
        key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")
    }
