"""Parameters for networks that exist: written in place, or into new tensors.

Behaviour that users rely on (tested, and described in docs/hypernetworks.md):
- parameters are written with `copy_`: they stay the same objects, on their device, in their dtype,
  as optimisers, compiled code and DDP buckets know them; gradients and optimiser state are not
  touched;
- wrappers (`torch.compile`, `DataParallel`, DDP) are seen through;
- frozen parameters (`requires_grad` off) are kept unless asked for;
- what the hypernetwork does not know keeps its values and is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError, InvalidGraphError
from ghn.graph import Graph, Primitive
from ghn.predict.protocol import Hypernetwork
from ghn.predict.report import Kept, Report
from ghn.tracing.run import trace, unwrap

logger = logging.getLogger(__name__)

Frozen = Literal["keep", "predict"]

MAX_ATTENTION_BYTES = 256 * 2**20
"""Networks are predicted together as long as the attention logits of their graphs take no more than
this, ...
"""

MAX_NODES = 4096
"""... and as long as their nodes, padding included, are no more: it bounds the features that are
decoded together.
"""


class StateDict(dict[str, Tensor]):
    """Predicted parameters by name, with a report of what is missing: `model.load_state_dict(state,
    strict=False)`.
    """

    report: Report
    _metadata: dict[str, Any]
    """Versions of the model's modules, where PyTorch looks for them: torchvision's MNASNet does not
    load without.
    """


def predict_in_place(
    ghn: Hypernetwork,
    models: Sequence[nn.Module],
    graphs: Sequence[Graph | None] | None = None,
    *,
    keep_head: bool = False,
    frozen: Frozen = "keep",
    example_inputs: Any = None,
) -> list[Report]:
    """Predicts the parameters of `models` in place. The tensors of one network are never held
    twice.

    Args:
        ghn: the hypernetwork.
        models: on any device, in any floating point type; parameters must exist (not be on the meta
            device).
        graphs: of the models; None, or None for one of them, has it traced.
        keep_head: whether the last layers keep their values (transfer to other classes).
        frozen: whether parameters with `requires_grad` off keep their values or are predicted like
            all others.
        example_inputs: for tracing (`ghn.trace`).

    Returns:
        A report for each model.

    Raises:
        ConfigError: nothing can be written: parameters on the meta device, sharded or not yet
            created, or all frozen.
        InvalidGraphError: a graph does not belong to its model.
        TraceError: a model cannot be traced.
    """
    if frozen not in get_args(Frozen):
        raise ConfigError(f"frozen is {frozen!r}; use one of {', '.join(get_args(Frozen))}")
    targets = []
    for model, graph in zip(models, graphs or [None] * len(models), strict=True):
        target = _Target.of(model, graph, example_inputs)
        target.check_writable(frozen)
        targets.append(target)
    _run(ghn, targets, keep_head)
    reports = [target.report() for target in targets]
    for report in reports:
        logger.info("%s", report)
    return reports


def predict_state_dict(
    ghn: Hypernetwork,
    model: nn.Module,
    graph: Graph | None = None,
    *,
    keep_head: bool = False,
    example_inputs: Any = None,
) -> StateDict:
    """The predicted parameters of `model`, which is left alone and may be on the meta device.

    New tensors have the dtype and device of the model's parameters (of the hypernetwork for a model
    on the meta device). Frozen parameters are predicted too. Rows of a positional encoding that are
    not predicted are the model's own, or zero on the meta device.

    Raises:
        InvalidGraphError: the graph does not belong to the model.
        TraceError: the model cannot be traced.
    """
    target = _Target.of(model, graph, example_inputs)
    new: dict[int, Tensor] = {}

    def allocate(parameter: Tensor) -> Tensor:
        device = ghn.device if parameter.is_meta else parameter.device
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        new[id(parameter)] = tensor
        return tensor

    target.allocate = allocate
    _run(ghn, [target], keep_head)
    state = StateDict({name: new[id(target.parameters[name])] for name in target.written})
    state.report = target.report()
    state._metadata = getattr(model.state_dict(), "_metadata", {})
    return state


@dataclass
class _Target:
    """A network that is predicted: its parameters and what has become of them."""

    model: nn.Module
    graph: Graph
    parameters: dict[str, Tensor]
    skip: dict[str, str] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    allocate: Callable[[Tensor], Tensor] | None = None

    @property
    def network(self) -> str:
        """The class of the network."""
        return type(self.model).__name__

    @classmethod
    def of(cls, model: nn.Module, graph: Graph | None, example_inputs: Any) -> _Target:
        model = unwrap(model)
        parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        for name, parameter in parameters.items():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ConfigError(
                    f"{type(model).__name__}.{name} has no shape yet; run the network once first"
                )
        if graph is None:
            graph = trace(model, example_inputs)
        target = cls(model, graph, parameters)
        target._check_graph()
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

    def check_writable(self, frozen: Frozen) -> None:
        """Notes frozen parameters, and refuses what cannot be written."""
        for name, parameter in self.parameters.items():
            if parameter.is_meta:
                raise ConfigError(
                    f"{self.network}.{name} is on the meta device; call model.to_empty(device=...),"
                    " or use predict()"
                )
            if hasattr(parameter, "full_tensor"):
                raise ConfigError(
                    f"{self.network}.{name} is sharded; predict before the network is sharded"
                )
            if not parameter.requires_grad and frozen == "keep":
                self.skip[name] = "frozen (requires_grad is off)"
        if self.parameters and len(self.skip) == len(self.parameters):
            raise ConfigError(
                f'all parameters of this {self.network} are frozen; pass frozen="predict" to'
                " predict them all the same"
            )

    def tensor(self, name: str) -> Tensor | None:
        """The tensor to write the prediction of parameter `name` to, or None."""
        parameter = self.parameters.get(name)
        if parameter is None or name in self.skip:  # a norm without bias
            return None
        return parameter.detach() if self.allocate is None else self.allocate(parameter)

    def wrote(self, name: str, tensor: Tensor, part: Tensor) -> None:
        """Notes that `part` of `tensor` was predicted, and completes tensors that are new."""
        self.written[name] = part.numel()
        if self.allocate is not None and part.numel() < tensor.numel():
            rest = tensor.shape[-2] - part.shape[-2]
            old = self.parameters[name].detach().narrow(-2, 0, rest)
            tensor.narrow(-2, 0, rest).copy_(
                torch.zeros_like(old, device=tensor.device) if old.is_meta else old
            )

    def report(self) -> Report:
        kept, predicted, seen = [], [], set()
        n_predicted = n_parameters = 0
        written = {id(self.parameters[name]): entries for name, entries in self.written.items()}
        for name, parameter in self.parameters.items():
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            entries = written.get(id(parameter), 0)
            n_predicted += entries
            n_parameters += parameter.numel()
            if entries:
                predicted.append(name)
            if entries < parameter.numel():
                reason = (
                    "rows beyond a square grid of positions, such as a class token"
                    if entries
                    else self._reason(name)
                )
                kept.append(Kept(name, tuple(parameter.shape), parameter.numel() - entries, reason))
        return Report(self.network, tuple(predicted), n_predicted, tuple(kept), n_parameters)

    def _reason(self, name: str) -> str:
        return self.skip.get(name) or (
            "no node in the graph: not part of the forward pass, or not a primitive (in a"
            f" {self._owner(name)})"
        )

    def _owner(self, name: str) -> str:
        return type(self.model.get_submodule(name.rpartition(".")[0])).__name__


def _sizes(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _run(ghn: Hypernetwork, targets: Sequence[_Target], keep_head: bool) -> None:
    """Predicts all targets, as many together as memory allows."""
    for chunk in _chunks(targets, ghn.heads):

        def target(graph: int, name: str, chunk: Sequence[_Target] = chunk) -> Tensor | None:
            return chunk[graph].tensor(name)

        def written(
            graph: int, name: str, tensor: Tensor, part: Tensor, chunk: Sequence[_Target] = chunk
        ) -> None:
            chunk[graph].wrote(name, tensor, part)

        shapes = [{name: tuple(p.shape) for name, p in item.parameters.items()} for item in chunk]
        skipped = ghn.write(
            [item.graph for item in chunk], target, written, heads=not keep_head, shapes=shapes
        )
        for item in skipped:
            chunk[item.graph].skip.setdefault(item.name, item.reason)


def _chunks(targets: Sequence[_Target], heads: int) -> Iterator[Sequence[_Target]]:
    chunk: list[_Target] = []
    for target in targets:
        n = max(item.graph.n_nodes for item in [*chunk, target])
        nodes = (len(chunk) + 1) * n
        if chunk and (nodes * n * heads * 4 > MAX_ATTENTION_BYTES or nodes > MAX_NODES):
            yield chunk
            chunk = []
        chunk.append(target)
    if chunk:
        yield chunk
