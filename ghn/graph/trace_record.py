"""Records which operations a forward pass does, and what flows from where, without doing them.

`Recorder` sees every PyTorch call of a forward pass (a `TorchFunctionMode`). Each tensor is tagged with the operation
that it comes from; an operation that makes no node (an activation, a reshape, ...) hands its input's tag on, the others
leave what `trace_rules` says. Tensors are meta tensors: shapes come from `trace_shapes` or from PyTorch's meta kernels,
parameters and buffers are replaced by meta twins as soon as they are touched, so that nothing is computed and nothing
of the network changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ghn.graph.trace_shapes import SHAPE_RULES


@dataclass(slots=True)
class Operation:
    """One step of a forward pass.

    Attributes:
        kind: name of the primitive it may become, or another word for one that only passes data on.
        inputs: indices of the operations that its data comes from, each once.
        param: name of its parameter, if it has one.
        shape: of the parameter; for pooling, of the window.
    """

    kind: str
    inputs: list[int]
    param: str = ""
    shape: tuple[int, ...] = ()


RecordRule = Callable[..., None]
"""What a function leaves in the record: called with the recorder, the function's result and its arguments."""

_QUERIES: set[Any] = {Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, Tensor.stride, Tensor.__len__}
_QUERIES |= {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "is_meta", "requires_grad", "is_cuda", "is_quantized", "is_nested",
                 "layout", "is_sparse", "grad_fn", "is_leaf", "itemsize", "nbytes", "_backward_hooks")
}  # fmt: skip

_VALUE_QUERIES: set[Any] = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.numpy,
}  # fmt: skip

_DEVICE_MOVES: set[Any] = {Tensor.to, Tensor.cpu, Tensor.cuda}

_CONSTANTS: set[Any] = {
    Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor, torch.zeros_like,
    torch.ones_like, torch.empty_like, torch.full_like, torch.rand_like, torch.randn_like,
}  # fmt: skip
"""Functions that take a tensor for its shape or type alone."""

_PRODUCTS: set[Any] = {
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.baddbmm, torch.einsum,
}  # fmt: skip
"""Products of two tensors; what multiplies a softmax with its values."""


class Recorder(TorchFunctionMode):
    """Follows tensors through a forward pass.

    Args:
        params: the network's parameters by name; a shared one once.
        buffers: the network's buffers.
        rules: from functions to what they leave in the record; others make no node.
        symbolic: False runs the operations on the tensors as they are, for a network whose control flow depends on the
            values of activations.

    Attributes:
        operations: in the order of the pass; operation 0 is the input.
        touched: names of the parameters that the pass used, whether or not they make a node.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        buffers: Iterable[Tensor],
        rules: Mapping[Callable[..., Any], RecordRule],
        symbolic: bool = True,
    ):
        super().__init__()
        self.rules = rules
        self.symbolic = symbolic
        self.operations = [Operation("input", [])]
        self.touched: set[str] = set()
        self._params = {id(param): (name, tuple(param.shape)) for name, param in params.items()}
        self._shapes = dict(self._params.values())
        self._registered = self._params.keys() | {id(buffer) for buffer in buffers}
        self._source: dict[int, int] = {}  # tensor -> operation
        self._derived: dict[int, tuple[str, ...]] = {}  # tensor computed from parameters alone -> their names
        self._twins: dict[int, Tensor] = {}
        self._alive: list[Any] = []  # identities stay unique as long as their tensors live

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
        if self.symbolic and (shape := SHAPE_RULES.get(func)) is not None and self._is_symbolic(args):
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
            self.pass_on(result, tensors_of(args) if involved is None else involved, product=func in _PRODUCTS)
        elif func is Tensor.__setitem__:
            self.pass_on(args[0], tensors_of(args))
        else:
            return result
        if func is Tensor.__setitem__ or (isinstance(result, Tensor) and args and result is args[0]):
            self._also_base(args[0])
        return result

    # What tensors are

    def mark_input(self, tensor: Tensor) -> None:
        """Declares `tensor` an input of the network."""
        self._source[id(tensor)] = 0
        self._alive.append(tensor)

    def source(self, tensor: Any) -> int | None:
        """The operation that `tensor` comes from; None for a constant or something computed from parameters alone."""
        return self._source.get(id(tensor))

    def param(self, tensor: Tensor | None) -> str:
        """The parameter that `tensor` is, or was computed from without changing its shape; "" if there is none.

        A weight that is computed (weight standardisation, a parametrisation) stands for the parameter of its shape.
        """
        if tensor is None:
            return ""
        if (known := self._params.get(id(tensor))) is not None:
            self.touched.add(known[0])
            return known[0]
        names = self._derived.get(id(tensor), ())
        same = [name for name in names if self._shapes[name] == tuple(tensor.shape)]
        return same[0] if len(same) == 1 else names[0] if len(names) == 1 else ""

    def param_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the parameter called `name`."""
        return self._shapes[name]

    # What operations leave

    def add(self, kind: str, inputs: Iterable[int | None], param: str = "", shape: tuple[int, ...] = ()) -> int:
        """Appends an operation; returns its index."""
        distinct = list(dict.fromkeys(i for i in inputs if i is not None))
        self.operations.append(Operation(kind, distinct, param, shape))
        return len(self.operations) - 1

    def tag(self, result: Any, operation: int | None) -> None:
        """Says that `result` (a tensor or a nest of them) comes from `operation`."""
        if operation is None:
            return
        for tensor in tensors_of(result):
            self._source[id(tensor)] = operation
        self._alive.append(result)

    def pass_on(self, result: Any, involved: Iterable[Any], product: bool = False) -> None:
        """Tags the result of an operation that makes no node: with the one source of its data, or as a junction.

        Args:
            result: a tensor or a nest of them.
            involved: what the operation takes; all but tensors is ignored.
            product: the operation multiplies its tensors, which makes a softmax among them an attention.
        """
        sources: dict[int, None] = {}
        names: dict[str, None] = {}
        for tensor in involved:
            if (source := self._source.get(id(tensor))) is not None:
                sources[source] = None
            elif (known := self._params.get(id(tensor))) is not None:
                names[known[0]] = None
            elif (derived := self._derived.get(id(tensor))) is not None:
                names.update(dict.fromkeys(derived))
        self.touched.update(names)
        if product and (attention := [i for i in sources if self.operations[i].kind == "softmax"]):
            others = [i for i in sources if i not in attention]
            self.tag(result, self.add("msa", [*(j for i in attention for j in self.operations[i].inputs), *others]))
        elif len(sources) == 1:
            self.tag(result, next(iter(sources)))
        elif sources:
            self.tag(result, self.add("junction", sources))
        elif names:
            for tensor in tensors_of(result):
                self._derived[id(tensor)] = tuple(names)
            self._alive.append(result)

    def layer(
        self, kind: str, inputs: Iterable[int | None], weight: Tensor | None, bias: Tensor | None = None
    ) -> int | None:
        """Appends a layer: a node of its weight, and one of its bias, as far as these are parameters.

        Returns:
            The operation that the layer's result comes from; None if neither data nor a parameter enters it.
        """
        sources = list(dict.fromkeys(source for source in inputs if source is not None))
        if weight is not None and (computed := self.source(weight)) is not None and computed not in sources:
            sources.append(computed)  # a weight that depends on the data
        if name := self.param(weight):
            operation = self.add(kind, sources, name, self._shapes[name])
        elif sources:
            operation = sources[0] if len(sources) == 1 else self.add("junction", sources)
        else:
            return None
        if name := self.param(bias):
            operation = self.add("bias", [operation], name, self._shapes[name])
        return operation

    # How they run

    def _is_symbolic(self, args: tuple[Any, ...]) -> bool:
        """Whether the first tensor argument has no values, or is the network's own and must not be computed with."""
        first = args[0] if args else None
        if isinstance(first, (list, tuple)):
            first = first[0] if first else None
        return isinstance(first, Tensor) and (first.is_meta or id(first) in self._registered)

    def _run(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], involved: list[Tensor]
    ) -> Any:
        """Runs `func` by PyTorch's kernel: on meta twins if any tensor is a meta tensor or the network's own.

        Arithmetic among constants that the forward pass makes itself (position indices, masks) stays real.
        """
        if not self.symbolic:
            return func(*args, **kwargs)
        real = [tensor for tensor in involved if not tensor.is_meta]
        if len(real) == len(involved) and not any(id(tensor) in self._registered for tensor in real):
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

    def _also_base(self, target: Tensor) -> None:
        """After an in-place operation on a view, what it is a view of depends on the same data."""
        base = target._base
        if base is None or (operation := self.source(target)) is None:
            return
        before = self.source(base)
        if before != operation:
            self.tag(base, self.add("junction", [before, operation]))


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a nest of lists, tuples, dictionaries and dataclasses, in order."""
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
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            _collect(getattr(value, name), found)


def _without_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kept = tuple(arg for arg in args[1:] if isinstance(arg, (torch.dtype, Tensor)))
    return (args[0], *kept), {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking")}
