"""The graph of any network, found by following one forward pass that computes nothing.

`inputs` makes up an input; `recorder` sees the calls of the forward pass; `dataflow` notes what
flows where, by the rules in `node_rules`; `shape_rules` gives the shapes; `reduce` keeps the
operations that are primitives; `quirks` bends the result into the graph that the released
hypernetworks know; `snapshot` puts the network back as it was.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.failures import reason
from ghn.graph.graph import Graph
from ghn.tracing.exported import from_exported
from ghn.tracing.extensions import Extensions, rules
from ghn.tracing.inputs import default_inputs, own_image_size
from ghn.tracing.nest import map_tensors, tensors_of
from ghn.tracing.network import Network
from ghn.tracing.process import own_settings
from ghn.tracing.recorder import Recorder
from ghn.tracing.reduce import ancestors, to_graph
from ghn.tracing.snapshot import Snapshot

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def trace(
    model: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    *,
    reference_compatible: bool = True,
    image_size: int | None = None,
    extensions: Extensions = (),
) -> Graph:
    """The computational graph of `model` (paper section 3.1; `docs/graphs.md` has the rules).

    Nothing is computed: parameters may be anywhere, on the meta device too. The network and the
    random state are afterwards as they were, whether or not it can be traced
    (`ghn.tracing.snapshot`). The graph does not depend on the mode: it is that of eval mode, or,
    for a network that has heads for training only (GoogLeNet, Inception), that of train mode. A
    program of `torch.export` has the mode that it was exported in (`ghn.tracing.exported`).

    Args:
        model: any module. Wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`
            are seen through; parameter names are those of `model.named_parameters()`. Or a program
            of `torch.export`, which needs no inputs.
        example_inputs: a tensor, a tuple or list of positional or a mapping of keyword arguments;
            a named tuple is one argument. Only shapes and dtypes matter. By default an input is
            made up from the first layer (`default_inputs`).
        reference_compatible: True gives the graph that the released checkpoints know, quirks
            included (listed in `ghn.tracing.quirks`); False the graph as the rules have it.
        image_size: side of the images to try first where the network does not say its own.
        extensions: names of layers that get nodes although the released checkpoints do not know
            them (`ghn.tracing.extensions` lists them), or "all".

    Raises:
        ConfigError: there is no such extension.
        TraceError: `model` is no network; or the forward pass fails on these inputs, or has control
            flow that depends on activations while the parameters are on the meta device, or hides
            how its outputs come about.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return from_exported(model, reference_compatible, extensions)
    return follow(model, example_inputs, reference_compatible, image_size, extensions).graph


@dataclass(frozen=True)
class Traced:
    """A graph, and what its forward pass was like.

    Attributes:
        graph: of the network.
        image_size: shorter side of the images that the network was run on; None for other inputs.
    """

    graph: Graph
    image_size: int | None


def follow(
    model: nn.Module,
    example_inputs: Any = None,
    reference_compatible: bool = True,
    image_size: int | None = None,
    extensions: Extensions = (),
) -> Traced:
    """`trace`, with what else is to be known of the forward pass."""
    network = Network(model)
    network.rules = rules(extensions)
    network.refuse_opaque()
    given = example_inputs is not None
    candidates = [example_inputs] if given else default_inputs(network.inner, image_size)
    network.snapshot = Snapshot(model, [*network.params.values(), *network.buffers])
    sized = given or own_image_size(network.inner) is not None
    inputs, recorder, outputs = _first_that_fits(network, candidates, sized)
    if network.params.keys() - recorder.touched:
        with contextlib.suppress(TraceError, _PassError):
            training = _record(network, inputs, training=True)
            if recorder.layers < training[0].layers:
                recorder, outputs = training
    _check_seen(network, recorder, outputs)
    graph = to_graph(recorder.operations, outputs, network.name, reference_compatible)
    if recorder.channels.columns:
        graph = replace(graph, columns=recorder.channels.columns)
    images = [tensor for tensor in tensors_of(inputs) if tensor.dim() == 4]
    side = min(images[0].shape[-2:]) if images else None
    return Traced(graph, side)


def _check_seen(network: Network, recorder: Recorder, outputs: list[int]) -> None:
    """Refuses a pass of which a part that the outputs depend on was not seen."""
    unseen = "(torch.vmap, functions of torch.jit and compiled extensions hide theirs)"
    needed = ancestors(recorder.operations, outputs)
    for operation, consumer in recorder.hidden.items():
        if needed[operation]:
            raise TraceError(
                f"{network.name}: an output depends on a tensor whose operations cannot be seen"
                f" {unseen}; it was met by {consumer}"
            )
    if recorder.returned:
        raise TraceError(
            f"{network.name} returns a {recorder.returned}, in which no tensor is found; return a"
            " tensor, or a list, tuple, mapping or dataclass that has some"
        )
    if not outputs:
        raise TraceError(
            f"{network.name}: no output follows from the inputs by operations that can be seen"
            f" {unseen}"
        )


def shape_propagation(model: nn.Module, *inputs: Tensor) -> Any:
    """The outputs of `model` on meta tensors, as meta tensors, without computing anything."""
    network = Network(model)
    with torch.no_grad(), Recorder(network.params, network.buffers, {}):
        return model(*inputs)


_Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class _PassError(Exception):
    """A forward pass failed, for the reason that the message says."""


def _arguments(inputs: Any) -> _Inputs:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    plain = isinstance(inputs, (tuple, list)) and not hasattr(inputs, "_fields")
    return (tuple(inputs) if plain else (inputs,)), {}


def _first_that_fits(
    network: Network, candidates: list[Any], sized: bool
) -> tuple[_Inputs, Recorder, list[int]]:
    """Records the eval-mode pass on the first of `candidates` that the network takes.

    Feature maps of a single pixel hide what their operations are (a gate is as large as what it
    gates): then larger images are tried, unless the size is known (`sized`).
    """
    reasons: list[str] = []
    tried: list[str] = []
    shrunk: tuple[_Inputs, Recorder, list[int]] | None = None
    for candidate in candidates:
        inputs = _arguments(candidate)
        if shrunk and candidate.numel() <= tensors_of(shrunk[0])[0].numel():
            continue
        try:
            found = inputs, *_record(network, inputs, training=False)
        except _PassError as error:
            reasons.append(str(error))
            tried.append(", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs)))
            continue
        if sized or found[1].map_side != 1:
            return found
        shrunk = shrunk or found
    if shrunk:
        return shrunk
    others = f"; nor does it take {', '.join(tried[1:])}" if tried[1:] else ""
    advice = "pass example_inputs that its forward takes"
    if network.on_meta:
        advice += ", and give it real parameters if its control flow depends on values"
    raise TraceError(
        f"{network.name} fails on inputs of shape {tried[0]}: {reasons[0]}{others}; {advice}"
    )


def _record(network: Network, inputs: _Inputs, training: bool) -> tuple[Recorder, list[int]]:
    """Runs the network under a recorder: on meta tensors, or, if its control flow needs values, for
    real.
    """
    try:
        return _run(network, inputs, training, symbolic=True)
    except TraceError:
        raise
    except Exception as error:
        if network.on_meta:
            raise _PassError(reason(error)) from None
    try:
        network.snapshot.keep_values()
        return _run(network, inputs, training, symbolic=False)
    except TraceError:
        raise
    except Exception as error:
        raise _PassError(reason(error)) from None


def _run(
    network: Network, inputs: _Inputs, training: bool, symbolic: bool
) -> tuple[Recorder, list[int]]:
    """One forward pass; the network is put back as it was, however it ends."""
    device = next((p.device for p in network.params.values() if not p.is_meta), torch.device("cpu"))
    constants = list(network.snapshot.tensors.values())
    recorder = Recorder(network.params, network.buffers, network.rules, symbolic, device, constants)
    place = torch.device("meta") if symbolic else device
    args, kwargs = map_tensors(lambda tensor: _placed(tensor, place), inputs)
    for tensor in tensors_of((args, kwargs)):
        recorder.mark_input(tensor)
    try:
        network.snapshot.lend()
        for module in network.modules:
            module.training = training
        with own_settings(), _eager(), torch.no_grad(), recorder:
            result = copy_context().run(network.inner, *args, **kwargs)
        returned = tensors_of(result)
        for tensor in returned:
            recorder.check_output(tensor)
        if not returned:
            recorder.returned = type(result).__name__
    finally:
        network.snapshot.restore()
    if isinstance(result, Mapping) and isinstance(logits := result.get("logits"), Tensor):
        returned.insert(0, logits)  # the main head, as in `ghn.outputs.heads`
    outputs = dict.fromkeys(
        source for tensor in returned if (source := recorder.source(tensor)) is not None
    )
    return recorder, list(outputs)


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    """A fresh tensor on `device`, so that none is the caller's."""
    if device.type == "meta":
        return torch.empty_like(tensor, device=device)
    if tensor.is_meta:
        return torch.zeros_like(tensor, device=device)
    return tensor.detach().to(device, copy=True)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Has functions and modules wrapped by `torch.compile` run as they were written."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
