"""What flows where in a forward pass: operations, and the tensors that come from them.

Each tensor is tagged with the operation that it comes from; an operation that makes no node (an
activation, a reshape, ...) hands its input's tag on, the others leave what `node_rules` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ghn.tracing.nest import tensors_of

NodeRule = Callable[..., None]
"""What a function leaves in the record: called with the record, the function's result and its
arguments.
"""


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


class DataFlow:
    """The operations of a forward pass so far.

    Args:
        params: the network's parameters by name; a shared one once.

    Attributes:
        marks: what rules note of tensors, by their identities.
        operations: in the order of the pass; operation 0 is the input.
        touched: names of the parameters that the pass used, whether or not they make a node.
        hidden: operations that stand for something that was not seen, and what met its result.
        map_side: shorter side of the last feature map that was pooled globally; None for none.
    """

    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.operations = [Operation("input", [])]
        self.touched: set[str] = set()
        self.hidden: dict[int, str] = {}
        self.map_side: int | None = None
        self.marks: dict[int, str] = {}
        self._params = {id(param): (name, tuple(param.shape)) for name, param in params.items()}
        self._shapes = dict(self._params.values())
        self._source: dict[int, int] = {}  # tensor -> operation
        # tensor computed from parameters alone -> their names
        self._derived: dict[int, tuple[str, ...]] = {}
        self._viewed: dict[int, Tensor] = {}  # view of a view -> that view
        self._known: set[int] = set()  # tensors that were seen to come about
        self._alive: list[Tensor] = []  # identities stay unique as long as their tensors live

    # What tensors are

    def mark_input(self, tensor: Tensor) -> None:
        """Declares `tensor` an input of the network."""
        self._source[id(tensor)] = 0
        self.know([tensor])

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Declares where `tensors` come from as seen."""
        for tensor in tensors:
            if id(tensor) not in self._known:
                self._known.add(id(tensor))
                self._alive.append(tensor)

    def hide(self, tensor: Tensor, consumer: str) -> None:
        """Declares `tensor` the result of an operation that was not seen.

        One that shares the memory of a tensor that was (a view made out of sight) comes from where
        that does.

        Args:
            tensor: that was not seen to come about.
            consumer: what has it now, for messages.
        """
        self.know([tensor])
        if (same := self._same_memory(tensor)) is None:
            self.hidden[operation := self.add("hidden", [])] = consumer
            self.tag(tensor, operation)
        elif (source := self.source(same)) is not None:
            self.tag(tensor, source)
        elif names := [self._params[id(same)][0]] if id(same) in self._params else []:
            self._derived[id(tensor)] = tuple(names)
        elif id(same) in self._derived:
            self._derived[id(tensor)] = self._derived[id(same)]

    def _same_memory(self, tensor: Tensor) -> Tensor | None:
        if (memory := _memory(tensor)) is None:
            return None
        others = (other for other in reversed(self._alive) if other is not tensor)
        return next((other for other in others if _memory(other) == memory), None)

    def source(self, tensor: Any) -> int | None:
        """The operation that `tensor` comes from; None for a constant or something computed from
        parameters alone.
        """
        return self._source.get(id(tensor))

    def param(self, tensor: Tensor | None) -> str:
        """The parameter that `tensor` is, or was computed from without changing its shape; "" if
        there is none.

        A weight that is computed (weight standardisation, a parametrisation) stands for the
        parameter of its shape.
        """
        if tensor is None:
            return ""
        if (known := self._params.get(id(tensor))) is not None:
            self.touched.add(known[0])
            return known[0]
        names = self._derived.get(id(tensor), ())
        same = [name for name in names if self._shapes[name] == tuple(tensor.shape)]
        return same[0] if len(same) == 1 else names[0] if len(names) == 1 else ""

    @property
    def layers(self) -> set[str]:
        """Names of the parameters that operations have."""
        return {operation.param for operation in self.operations if operation.param}

    def param_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the parameter called `name`."""
        return self._shapes[name]

    # What operations leave

    def add(
        self, kind: str, inputs: Iterable[int | None], param: str = "", shape: tuple[int, ...] = ()
    ) -> int:
        """Appends an operation; returns its index."""
        distinct = list(dict.fromkeys(i for i in inputs if i is not None))
        self.operations.append(Operation(kind, distinct, param, shape))
        return len(self.operations) - 1

    def tag(self, result: Any, operation: int | None) -> None:
        """Says that `result` (a tensor or a nest of them) comes from `operation`."""
        if operation is None:
            return
        tensors = tensors_of(result)
        for tensor in tensors:
            self._source[id(tensor)] = operation
        self.know(tensors)

    def pass_on(self, result: Any, involved: Iterable[Any], product: bool = False) -> None:
        """Tags the result of an operation that makes no node: with the one source of its data, or
        as a junction.

        Args:
            result: a tensor or a nest of them.
            involved: what the operation takes; all but tensors is ignored.
            product: the operation multiplies its tensors, which makes a softmax among them an
                attention.
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
            self.tag(
                result,
                self.add(
                    "msa", [*(j for i in attention for j in self.operations[i].inputs), *others]
                ),
            )
        elif len(sources) == 1:
            self.tag(result, next(iter(sources)))
        elif sources:
            self.tag(result, self.add("junction", sources))
        elif names:
            tensors = tensors_of(result)
            for tensor in tensors:
                self._derived[id(tensor)] = tuple(names)
            self.know(tensors)

    def layer(
        self,
        kind: str,
        inputs: Iterable[int | None],
        weight: Tensor | None,
        bias: Tensor | None = None,
    ) -> int | None:
        """Appends a layer: a node of its weight, and one of its bias, as far as these are
        parameters.

        Returns:
            The operation that the layer's result comes from; None if neither data nor a parameter
            enters it.
        """
        sources = list(dict.fromkeys(source for source in inputs if source is not None))
        if (
            weight is not None
            and (computed := self.source(weight)) is not None
            and computed not in sources
        ):
            sources.append(computed)  # a weight that depends on the data
        if name := self.param(weight):
            operation = self.add(kind, sources, name, folded(self._shapes[name]))
        elif sources:
            operation = sources[0] if len(sources) == 1 else self.add("junction", sources)
        else:
            return None
        if name := self.param(bias):
            operation = self.add("bias", [operation], name, self._shapes[name])
        return operation

    def note_views(self, results: Iterable[Tensor], view: Tensor) -> None:
        """Notes which of the results of an operation on a view are new views of it."""
        for result in results:
            if id(result) not in self._known and result._base is view._base:
                self._viewed[id(result)] = view

    def also_base(self, target: Tensor) -> None:
        """After an in-place operation on a view, what it is a view of depends on the same data: its
        base, and the views on the way there.
        """
        base = target._base
        if base is None or (operation := self.source(target)) is None:
            return
        changed = target
        while changed is not base:
            changed = self._viewed.get(id(changed), base)
            if (before := self.source(changed)) != operation:
                self.tag(changed, self.add("junction", [before, operation]))


def folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as a node has it, which has room for four sizes: of a three-dimensional kernel depth
    and height are one.
    """
    return (*shape[:2], shape[2] * shape[3], shape[4]) if len(shape) == 5 else shape


def _memory(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # a tensor without storage, inside `torch.vmap`
        return None
