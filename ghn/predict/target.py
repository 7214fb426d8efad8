"""A network that is predicted: where predictions go, and what has become of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.errors import ConfigError, InvalidGraphError
from ghn.failures import require_shapes
from ghn.graph import Graph, Primitive
from ghn.predict.fit import misfits, norms_with_statistics, not_helped
from ghn.predict.parametrized import Computed, NotInvertibleError, computed_weights
from ghn.predict.protocol import Hypernetwork
from ghn.predict.report import NO_STATISTICS, Kept, Report
from ghn.predict.weights import padding_rows
from ghn.predict.writable import unwritable
from ghn.tracing.dataflow import folded
from ghn.tracing.network import unwrap
from ghn.tracing.run import follow

TOLERANCE = 0.01
"""Relative difference of a computed weight from its prediction that is worth a note."""


@dataclass
class Target:
    """A network that is predicted.

    Attributes:
        model: the network, without wrappers.
        graph: of it.
        parameters: of it by all their names.
        warnings: what of it does not fit the hypernetwork.
        skip: parameters that keep their values, and why.
        written: how many entries of each parameter were predicted.
        allocate: makes a tensor for the prediction of a parameter; None writes in place.
        buffers: that computed weights need besides.
        planned: nothing is predicted; computed weights get small random values in its place.
    """

    model: nn.Module
    graph: Graph
    parameters: dict[str, Tensor]
    warnings: tuple[str, ...] = ()
    skip: dict[str, str] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    allocate: Callable[[Tensor], Tensor] | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    planned: bool = False
    _computed: dict[str, Computed] = field(default_factory=dict)
    _padding: dict[str, int] = field(default_factory=dict)
    _partial: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    _pending: dict[str, Tensor] = field(default_factory=dict)
    _rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    @property
    def network(self) -> str:
        """The class of the network."""
        return type(self.model).__name__

    @classmethod
    def of(
        cls,
        ghn: Hypernetwork,
        model: nn.Module,
        graph: Graph | None,
        example_inputs: Any,
        keep_head: bool,
        strict: bool,
    ) -> Target:
        """The target that `model` is, traced if there is no graph.

        Raises:
            ConfigError: it is no network, has parameters without a shape, or does not fit the
                hypernetwork and `strict` is on.
            InvalidGraphError: the graph does not belong to it.
            TraceError: it cannot be traced.
        """
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"a hypernetwork predicts the parameters of a network (torch.nn.Module), not of"
                f" {model!r}; ghn.architectures.build(NAME) makes a network of a name"
            )
        wrapper, model = model, unwrap(model)
        parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        require_shapes(model)
        traced = None
        if graph is None:
            traced = follow(model, example_inputs, image_size=ghn.image_size)
            graph = traced.graph
        elif any(name and name not in parameters for name in graph.param):
            graph = _inside(graph, wrapper, model)
        warnings = misfits(ghn, model, graph, traced, keep_head)
        target = cls(model, graph, parameters, warnings)
        target._check_graph()
        if strict and warnings:
            raise ConfigError(
                f"{target.network} does not fit the hypernetwork: {'; '.join(warnings)}; leave"
                " strict out to predict it all the same"
            )
        target._look_at_parameters()
        target._notes += not_helped(ghn, graph)
        return target

    def _check_graph(self) -> None:
        nodes = zip(
            self.graph.param, self.graph.primitive.tolist(), self.graph.shape.tolist(), strict=True
        )
        for name, primitive, padded in nodes:
            if not name:
                continue
            shape, parameter = tuple(size for size in padded if size), self.parameters.get(name)
            if parameter is None:
                problem = f"has no parameter {name!r}"
            elif primitive != Primitive.pos_enc and _sizes(parameter.shape) != _sizes(shape):
                problem = f"has {name!r} of shape {tuple(parameter.shape)}, the graph of {shape}"
            else:
                continue
            raise InvalidGraphError(
                f"the graph {self.graph.name or ''} does not belong to this {self.network}, which"
                f" {problem}; leave the graph out to have it traced"
            )

    def _look_at_parameters(self) -> None:
        """Notes which parameters no prediction fits, which are computed from, and padding rows."""
        for name, parameter in self.parameters.items():
            if not parameter.is_floating_point() or parameter.dtype.itemsize < 2:
                self.skip[name] = f"numbers of type {str(parameter.dtype).removeprefix('torch.')}"
            elif parameter.layout is not torch.strided:
                self.skip[name] = "not a dense tensor"
        self._computed = computed_weights(self.model)
        rows = padding_rows(self.model)
        for name, parameter in self.parameters.items():
            if (row := rows.get(id(parameter))) is not None and parameter.dim() == 2:
                self._padding[name] = row % len(parameter)

    def check_writable(self, keep_frozen: bool) -> None:
        """Notes frozen parameters, and refuses what cannot be written."""
        frozen = "frozen (requires_grad is off)"
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad and keep_frozen:
                self.skip[name] = frozen
            if problem := unwritable(parameter, name in self.skip):
                raise ConfigError(f"{self.network}.{name} is {problem}")
        if frozen in self.skip.values() and len(self.skip) == len(self.parameters):
            raise ConfigError(
                f'all parameters of this {self.network} are frozen; pass frozen="predict" to'
                " predict them all the same"
            )

    def tensor(self, name: str) -> Tensor | None:
        """The tensor to write the prediction of parameter `name` to, or None."""
        parameter = self.parameters.get(name)
        if parameter is None or name in self.skip:  # a norm without bias
            return None
        if name in self._computed:
            device = torch.device("cpu") if parameter.is_meta else parameter.device
            weight = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            if self.planned:
                generator = torch.Generator().manual_seed(0)
                weight.copy_(0.01 * torch.randn(weight.shape, generator=generator, device="cpu"))
            self._pending[name] = weight
            return weight
        tensor = parameter.detach() if self.allocate is None else self.allocate(parameter)
        if (row := self._padding.get(name)) is not None:
            old = torch.zeros_like(tensor[row]) if parameter.is_meta else parameter.detach()[row]
            self._rows.append((tensor[row], old.clone()))
        return tensor

    def wrote(self, name: str, tensor: Tensor, part: Tensor) -> None:
        """Notes that `part` of `tensor` was predicted, and completes tensors that are new."""
        self.written[name] = part.numel()
        rest = tensor.shape[-2] - part.shape[-2] if part.numel() < tensor.numel() else 0
        if rest:
            reason = "rows beyond a square grid of positions, such as a class token"
            self._partial[name] = [(tensor.numel() - part.numel(), reason)]
        if self._padding.get(name, -1) >= rest:
            self.written[name] -= part.shape[-1]
            padding = (part.shape[-1], "the row of padding, which gets no gradient")
            self._partial.setdefault(name, []).append(padding)
        if self.allocate is not None and rest:
            old = self.parameters[name].detach().narrow(-2, 0, rest)
            tensor.narrow(-2, 0, rest).copy_(
                torch.zeros_like(old, device=tensor.device) if old.is_meta else old
            )

    @torch.no_grad()
    def finish(self) -> None:
        """After the last prediction: padding rows get their values back, computed weights their
        effect.
        """
        for row, old in self._rows:
            row.copy_(old)
        for name, weight in self._pending.items():
            self._write_computed(name, self._computed[name], weight)
        self._rows, self._pending = [], {}

    def _write_computed(self, name: str, computed: Computed, weight: Tensor) -> None:
        del self.written[name]
        if held := computed.behind.keys() & self.skip.keys():
            self.skip[name] = f"computed from {min(held)}, which keeps its values"
            return
        try:
            if self.allocate is None:
                difference = computed.write(weight)
            else:
                values, difference = computed.invert(weight)
                for key, parameter in computed.behind.items():
                    self.allocate(parameter).copy_(values.pop(key))
                self.buffers |= values
        except NotInvertibleError as error:
            self.skip[name] = str(error)
            return
        self.written |= {key: parameter.numel() for key, parameter in computed.behind.items()}
        if difference > TOLERANCE and not self.planned:
            owner = f"{computed.prefix}." if computed.prefix else ""
            self._notes.append(
                f"{owner}{computed.name} is computed and differs from its prediction by"
                f" {100 * difference:.0f} %, as its parametrization demands"
            )

    def report(self) -> Report:
        """What was predicted and what was not."""
        kept, predicted, seen = [], [], set()
        n_predicted = n_parameters = 0
        names = {id(self.parameters[name]): name for name in self.written}
        for name, parameter in self.parameters.items():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            wrote = names.get(id(parameter), "")
            entries = self.written.get(wrote, 0)
            n_predicted += entries
            n_parameters += parameter.numel()
            if entries:
                predicted.append(name)
            if entries < parameter.numel():
                parts = self._partial.get(wrote) or [(parameter.numel(), self._reason(name))]
                kept += [Kept(name, tuple(parameter.shape), n, reason) for n, reason in parts]
        return Report(
            network=self.network,
            predicted=tuple(predicted),
            n_predicted=n_predicted,
            kept=tuple(kept),
            n_parameters=n_parameters,
            warnings=self.warnings,
            notes=(*self._notes, *self._statistics()),
        )

    def _statistics(self) -> list[str]:
        norms = norms_with_statistics(self.model)
        others = [norm for norm in norms if not isinstance(norm, _BatchNorm)]
        notes = []
        if n := len(norms) - len(others):
            notes.append(
                f"{NO_STATISTICS} {n} norms are not predicted: before model.eval(), call"
                " ghn.reestimate_batch_norm(model, batches), or use ghn.batch_statistics(model)"
            )
        if others:
            names = ", ".join(sorted({type(norm).__name__ for norm in others}))
            notes.append(
                f"{len(others)} norms ({names}) have running statistics that are not predicted, and"
                " which ghn.reestimate_batch_norm does not know: set them yourself"
            )
        return notes

    def _reason(self, name: str) -> str:
        owner = type(self.model.get_submodule(name.rpartition(".")[0])).__name__
        return self.skip.get(name) or (
            f"no node in the graph: not part of the forward pass, or not a primitive (in a {owner})"
        )


def _inside(graph: Graph, wrapper: nn.Module, model: nn.Module) -> Graph:
    """The graph of a wrapper (`torch.compile`, `DataParallel`) with the names that parameters have
    in the network inside.
    """
    start = next(f"{name}." for name, module in wrapper.named_modules() if module is model)
    return replace(
        graph,
        param=tuple(name.removeprefix(start) for name in graph.param),
        columns={name.removeprefix(start): read for name, read in graph.columns.items()},
    )


def _sizes(shape: Sequence[int]) -> list[int]:
    return [size for size in folded(tuple(shape)) if size != 1]
