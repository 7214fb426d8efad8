"""The graph of a program of `torch.export`: its operators are read one after the other, and none is
run.

The rules are those of tracing: an operator leaves in the record what the function of its name
leaves. Arguments go by name, since operators have them in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.nn import functional as F

from ghn.errors import TraceError
from ghn.tracing.channels import Channels
from ghn.tracing.dataflow import DataFlow, NodeRule
from ghn.tracing.extensions import Extensions, rules
from ghn.tracing.nest import tensors_of
from ghn.tracing.recorder import CONSTANTS, PRODUCTS
from ghn.tracing.reduce import to_graph

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node

    from ghn.graph.graph import Graph

_ARGUMENTS = {"": {"self": "input"}, "embedding": {"indices": "input"}}
"""Names that operators give arguments, and those of the functions that stand for them: of all, and
of some.
"""

_WRAPPERS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
"""Operators whose body is run as it stands."""

_PLACES = (torch, Tensor, F, torch._C._nn)
"""Where the function that an operator is called after may be."""


def from_exported(
    program: ExportedProgram, reference_compatible: bool = True, extensions: Extensions = ()
) -> Graph:
    """The graph that `ghn.trace` gives of the module that was exported, as it ran then: the heads
    that a network has for training only are there if it was exported in training mode.

    Args:
        program: as `torch.export.export` gives it; a decomposed one has other operators.
        reference_compatible: as for `ghn.trace`.
        extensions: as for `ghn.trace`.

    Raises:
        ConfigError: there is no such extension.
        TraceError: the program is decomposed, or has an operator with a body of its own.
    """
    name = _name(program)
    if program.dialect != "TRAINING":
        raise TraceError(
            f"{name}: the program is decomposed ({program.dialect}), its layers cannot be told;"
            " pass what torch.export.export returns"
        )
    reader = _Reader(program, rules(extensions), name)
    outputs: list[int] = []
    for node in program.graph.nodes:
        if node.op == "call_function":
            reader.read(node)
        elif node.op == "output":
            outputs = reader.outputs(node)
    if not outputs:
        raise TraceError(f"{name}: no output follows from the inputs")
    graph = to_graph(reader.operations, outputs, name, reference_compatible)
    return replace(graph, columns=reader.channels.columns)


class _Reader(DataFlow):
    """The record of a program. What flows are the values that the program notes of its nodes.

    Attributes:
        channels: which channels the columns of weights read, where they are shuffled.
    """

    def __init__(
        self, program: ExportedProgram, rules: Mapping[Callable[..., Any], NodeRule], name: str
    ) -> None:
        signature = program.graph_signature
        names = signature.inputs_to_parameters
        first: dict[int, Tensor] = {}  # a shared parameter has a placeholder for each of its names
        params: dict[str, Tensor] = {}
        self._values: dict[Node, Any] = {}
        self._base: dict[int, Tensor] = {}
        self._rules, self._program_name = rules, name
        self._user_outputs = set(signature.user_outputs)
        inputs = []
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            value = node.meta.get("val")
            if node.name in names:
                parameter = program.state_dict[names[node.name]]
                value = first.setdefault(id(parameter), value)
                params.setdefault(_first_name(program, parameter), value)
            elif node.name in signature.user_inputs:
                inputs += tensors_of(value)
            self._values[node] = value
        super().__init__(params)
        self.channels = Channels(self.param)
        for tensor in inputs:
            self.mark_input(tensor)

    def read(self, node: Node) -> None:
        """Notes what one operator leaves."""
        operator = node.target
        if isinstance(operator, HigherOrderOperator):
            self._values[node] = self._inlined(node, operator)
            return
        out = self._values[node] = node.meta.get("val")
        args, kwargs = self._resolved(node.args), self._resolved(node.kwargs)
        if operator is getitem:
            self._values[node] = args[0][args[1]]
        if not isinstance(operator, OpOverload):  # arithmetic of sizes
            return
        schema = operator._schema
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False))
        name = schema.name.partition("::")[2].rstrip("_")
        renamed = _ARGUMENTS[""] | _ARGUMENTS.get(name, {})
        given = {renamed.get(key, key): value for key, value in (given | kwargs).items()}
        functions = [getattr(place, name) for place in _PLACES if hasattr(place, name)]
        for function in functions:
            self.channels.follow(function, out, (), given)
        self._note(name, functions, out, given, _fuses(node))
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            if schema.is_mutable:
                self._written(args[0], out)
            elif (alias := schema.arguments[0].alias_info) is not None and not alias.is_write:
                self._base[id(out)] = args[0]

    def _inlined(self, node: Node, operator: HigherOrderOperator) -> Any:
        """The result of what stands in `torch.no_grad` or `torch.autocast`, which is a graph."""
        if str(operator) not in _WRAPPERS:
            raise TraceError(
                f"{self._program_name}: the operator {operator} has a body of its own, which cannot"
                " be read"
            )
        args: Sequence[Any] = node.args
        place = next(i for i, arg in enumerate(args) if getattr(arg, "op", "") == "get_attr")
        body = getattr(node.graph.owning_module, args[place].target).graph
        given = iter(self._resolved(args[place + 1 :]))
        for inner in body.nodes:
            if inner.op == "placeholder":
                self._values[inner] = next(given)
            elif inner.op == "call_function":
                self.read(inner)
        return self._resolved(body.output_node().args[0])

    def outputs(self, node: Node) -> list[int]:
        """The operations that the outputs of the network come from, the main output first."""
        results: Any = node.args[0]
        found = [n for n in results if getattr(n, "name", None) in self._user_outputs]
        tensors = tensors_of(self._resolved(found))
        return list(dict.fromkeys(s for t in tensors if (s := self.source(t)) is not None))

    def _note(
        self,
        name: str,
        functions: Sequence[Callable[..., Any]],
        out: Any,
        given: dict[str, Any],
        fuses: bool,
    ) -> None:
        if any(function in CONSTANTS for function in functions):
            return
        if name == "scaled_dot_product_attention" and fuses:
            queries = (given[key] for key in ("query", "key", "value"))
            self.tag(out, self.add("fused_msa", [self.source(tensor) for tensor in queries]))
        elif rule := next((self._rules[f] for f in functions if f in self._rules), None):
            rule(self, out, **given)
        else:
            product = any(function in PRODUCTS for function in functions)
            self.pass_on(out, tensors_of(list(given.values())), product=product)

    def _written(self, target: Tensor, out: Tensor) -> None:
        """After an operation in place: its target, and what that is a view of, depend on the same
        data.
        """
        if (operation := self.source(out)) is None:
            return
        self.tag(target, operation)
        while (base := self._base.get(id(target))) is not None:
            if self.source(base) != operation:
                operation = self.add("junction", [self.source(base), operation])
                self.tag(base, operation)
            target = base

    def _resolved(self, value: Any) -> Any:
        """Arguments with the values of the nodes among them."""
        return torch.fx.node.map_arg(value, lambda node: self._values[node])


def _fuses(node: Node) -> bool:
    """Whether `nn.MultiheadAttention` has called an operator."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return any(str(kind).endswith("MultiheadAttention") for _, kind in stack)


def _first_name(program: ExportedProgram, parameter: Tensor) -> str:
    return str(next(name for name, other in program.state_dict.items() if other is parameter))


def _name(program: ExportedProgram) -> str:
    """Of the class of the module that was exported."""
    for node in program.graph.nodes:
        for _, kind in (node.meta.get("nn_module_stack") or {}).values():
            return str(getattr(kind, "__name__", kind)).rpartition(".")[2]
    return "program"
