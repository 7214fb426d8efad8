"""Parameters for networks that exist: written in place, or into new tensors.

Behaviour that users rely on (tested, and described in docs/hypernetworks.md):
- parameters are written with `copy_`: they stay the same objects, on their device, in their dtype,
  as optimisers, compiled code and DDP buckets know them; gradients and optimiser state are not
  touched;
- wrappers (`torch.compile`, `DataParallel`, DDP) are seen through;
- frozen parameters (`requires_grad` off) are kept unless asked for;
- weights that are computed (weight norm and other parametrizations) are predicted, not the
  parameters behind them;
- padding rows of embeddings, integers and complex numbers keep their values;
- what the hypernetwork does not know keeps its values and is reported.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError
from ghn.graph import Graph
from ghn.predict.protocol import Hypernetwork
from ghn.predict.report import Report
from ghn.predict.target import Target

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
    strict=False)`. Names are those of the network inside wrappers, which is what loads them.

    Pickled, as by `torch.save`, it is a plain state dict without the report, which `torch.load`
    reads with `weights_only`, as it does by default.
    """

    report: Report
    _metadata: dict[str, Any]
    """Versions of the model's modules, where PyTorch looks for them: torchvision's MNASNet does not
    load without.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"_metadata": self._metadata}, None, iter(self.items())

    def __copy__(self) -> Self:
        return self._with(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._with(copy.deepcopy(dict(self), memo))

    def _with(self, tensors: dict[str, Tensor]) -> Self:
        other = type(self)(tensors)
        vars(other).update(vars(self))
        return other


def predict_in_place(
    ghn: Hypernetwork,
    models: Sequence[nn.Module],
    graphs: Sequence[Graph | None] | None = None,
    *,
    keep_head: bool = False,
    frozen: Frozen = "keep",
    strict: bool = False,
    example_inputs: Any = None,
) -> list[Report]:
    """Predicts the parameters of `models` in place. The tensors of one network are never held
    twice.

    Args:
        ghn: the hypernetwork.
        models: on any device, in any floating point type; parameters must exist (not be on the meta
            device).
        graphs: of the models; None, or None for one of them, has it traced.
        keep_head: whether the last layers keep their values (transfer to other classes); a report
            warns of a network that ends otherwise, of which all is predicted.
        frozen: whether parameters with `requires_grad` off keep their values or are predicted like
            all others.
        strict: whether to refuse a network that does not fit the hypernetwork (`Report.warnings`).
        example_inputs: for tracing (`ghn.trace`).

    Returns:
        A report for each model.

    Raises:
        ConfigError: nothing can be written: no network, parameters on the meta device, sharded,
            expanded or not yet created, or all frozen; or `strict` refuses a network, or there are
            not as many graphs as networks. Then nothing has been written.
        InvalidGraphError: a graph does not belong to its model.
        TraceError: a model cannot be traced.
    """
    if frozen not in get_args(Frozen):
        raise ConfigError(f"frozen is {frozen!r}; use one of {', '.join(get_args(Frozen))}")
    if graphs is not None and len(graphs) != len(models):
        raise ConfigError(
            f"there are {len(models)} networks and {len(graphs)} graphs; give a graph for each,"
            " None for those that are to be traced, or leave the graphs out"
        )
    targets = []
    for model, graph in zip(models, graphs or [None] * len(models), strict=True):
        target = Target.of(ghn, model, graph, example_inputs, keep_head, strict)
        target.check_writable(keep_frozen=frozen == "keep")
        targets.append(target)
    _run(ghn, targets, keep_head)
    return [_told(target.report()) for target in targets]


def predict_state_dict(
    ghn: Hypernetwork,
    model: nn.Module,
    graph: Graph | None = None,
    *,
    keep_head: bool = False,
    strict: bool = False,
    example_inputs: Any = None,
) -> StateDict:
    """The predicted parameters of `model`, which is left alone and may be on the meta device.

    New tensors have the dtype and device of the model's parameters (of the hypernetwork for a model
    on the meta device). Their names, and the metadata of the state, are those of the network inside
    wrappers (`torch.compile`, `DataParallel`): load it there, `model.module.load_state_dict`.
    Frozen parameters are predicted too. Rows of a positional encoding that are not predicted are
    the model's own, or zero on the meta device.

    Raises:
        ConfigError: `model` is no network, or `strict` and it does not fit the hypernetwork.
        InvalidGraphError: the graph does not belong to the model.
        TraceError: the model cannot be traced.
    """
    target = Target.of(ghn, model, graph, example_inputs, keep_head, strict)
    new: dict[int, Tensor] = {}

    def allocate(parameter: Tensor) -> Tensor:
        device = ghn.device if parameter.is_meta else parameter.device
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        new[id(parameter)] = tensor
        return tensor

    target.allocate = allocate
    _run(ghn, [target], keep_head)
    state = StateDict({name: new[id(target.parameters[name])] for name in target.written})
    state |= target.buffers
    state.report = _told(target.report())
    state._metadata = getattr(target.model.state_dict(), "_metadata", {})
    return state


def _told(report: Report) -> Report:
    """The report, whose warnings are in the log."""
    logger.info("%s", report)
    for warning in report.warnings:
        logger.warning("%s: %s", report.network, warning)
    return report


def _run(ghn: Hypernetwork, targets: Sequence[Target], keep_head: bool) -> None:
    """Predicts all targets, as many together as memory allows."""
    for chunk in _chunks(targets, ghn.heads):

        def target(graph: int, name: str, chunk: Sequence[Target] = chunk) -> Tensor | None:
            return chunk[graph].tensor(name)

        def written(
            graph: int, name: str, tensor: Tensor, part: Tensor, chunk: Sequence[Target] = chunk
        ) -> None:
            chunk[graph].wrote(name, tensor, part)

        shapes = [{name: tuple(p.shape) for name, p in item.parameters.items()} for item in chunk]
        skipped = ghn.write(
            [item.graph for item in chunk], target, written, heads=not keep_head, shapes=shapes
        )
        for item in skipped:
            chunk[item.graph].skip.setdefault(item.name, item.reason)
        for done in chunk:
            done.finish()


def _chunks(targets: Sequence[Target], heads: int) -> Iterator[Sequence[Target]]:
    chunk: list[Target] = []
    for target in targets:
        n = max(item.graph.n_nodes for item in [*chunk, target])
        nodes = (len(chunk) + 1) * n
        if chunk and (nodes * n * heads * 4 > MAX_ATTENTION_BYTES or nodes > MAX_NODES):
            yield chunk
            chunk = []
        chunk.append(target)
    if chunk:
        yield chunk
