"""The networks of a population: from a name to a graph, a cost, and a network without parameters of
its own.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from flows.networks.build import gmacs
from flows.rows.code import code_digest
from flows.rows.digest import digest
from flows.settings import paths
from ghn.architectures.own import find_factory, is_own, network
from ghn.errors import ConfigError, GHNError
from ghn.files import atomic_path, sha256
from ghn.graph import Graph, from_json_dict
from ghn.models import GHNConfig
from ghn.models.decoding.plan import plan
from ghn.names import TIMM_PREFIX
from ghn.outputs import heads
from ghn.randomness import seed_of, seeded
from ghn.tracing import trace
from ghn.tracing.run import shape_propagation

GRAPHS = paths.CACHE / "graphs"
"""Graphs of libraries' networks that were traced before, by content: deleting them costs time only.
"""


@dataclass(frozen=True, eq=False)
class Member:
    """A network of a population.

    Attributes:
        name: as `ghn.architectures.own.network` takes it.
        graph: of it, at the size of the training images.
        cost: multiply-accumulates per image.
        network: with predicted parameters on the meta device; what is not predicted has the values
            of its initialisation. Norms normalise by the batch, and of several outputs the first
            counts.
    """

    name: str
    graph: Graph
    cost: float
    network: nn.Module


def member_content(name: str) -> str:
    """Digest of what decides a network: its name, and the versions of the library that has it; of a
    network of your own the source file of its class or function as well.

    Raises:
        GHNError: there is no such file, module or name in it.
    """
    if not is_own(name):
        return digest(name, version("timm" if name.startswith(TIMM_PREFIX) else "torchvision"))
    sources = sorted(sha256(path) for path in _sources(name))
    return digest(name, sources, [_version(p) for p in ("torch", "torchvision", "timm")])


def _sources(name: str) -> set[Path]:
    place = name.rpartition(":")[0]
    factory = find_factory(name)
    made_in = getattr(sys.modules.get(getattr(factory, "__module__", "")), "__file__", None)
    spec = None if place.endswith(".py") else importlib.util.find_spec(place)
    named = place if spec is None else spec.origin
    return {Path(file).resolve() for file in (named, made_in) if file and Path(file).is_file()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def member(name: str, num_classes: int, image_size: int, seed: int) -> Member:
    """Builds and traces a network; the random state stays as it is.

    The graph of a library's network is kept for the next time, not that of one of your own: what
    its file imports decides it too.

    Args:
        name: of the network.
        num_classes: of the training images.
        image_size: their side in pixels.
        seed: of parameters that are not predicted.

    Raises:
        ConfigError: it cannot be built at this size, does not give logits of these classes, or its
            weights are computed from others.
        GHNError: there is no such network, or it cannot be traced.
    """
    with seeded(seed_of(seed, name)):
        model = network(name, num_classes, image_size, device="cpu")
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    code = code_digest("ghn.architectures")  # what traces is in its closure
    key = digest(member_content(name), num_classes, image_size, code)
    path = GRAPHS / f"{key}.json"
    own = is_own(name)
    if (known := None if own else _read(path, name)) is None:
        _check_outputs(model, images, num_classes)
        graph = replace(trace(model, images), name=name)
        known = graph, _macs(model, image_size) * 1e9
        if not own:
            _write(path, *known)
    graph, cost = known
    return Member(name, graph, cost, _hollow(model, graph))


def _check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> None:
    try:
        outputs = shape_propagation(model, images)
    except (RuntimeError, TypeError, ValueError):
        return  # tracing says what is wrong, and where
    logits = heads(outputs)[0]
    if tuple(logits.shape) != (len(images), num_classes):
        raise ConfigError(
            f"it gives outputs of shape {tuple(logits.shape)} for {len(images)} images, not logits"
            f" of {num_classes} classes"
        )


def _macs(model: nn.Module, image_size: int) -> float:
    try:
        return gmacs(copy.deepcopy(model).to("meta"), image_size)
    except (RuntimeError, NotImplementedError):  # its control flow needs values
        return gmacs(copy.deepcopy(model), image_size)


def _hollow(model: nn.Module, graph: Graph) -> nn.Module:
    """`model` as `Member` describes it, changed in place."""
    predicted = _predicted(graph)
    named = dict(model.named_parameters())
    if unknown := [name for name in graph.param if name and name not in named]:
        raise ConfigError(f"its weight {unknown[0]} is computed from others (a parametrization)")
    new = {
        id(p): nn.Parameter(p.to("meta") if name in predicted else p.detach(), requires_grad=False)
        for name, p in named.items()
    }
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
        for name, parameter in module._parameters.items():
            if parameter is not None:  # a shared one stays shared
                module._parameters[name] = new[id(parameter)]
    for node, name in enumerate(graph.param):
        if name and graph.param_shape(node) != tuple(named[name].shape):
            _reshape(model, name, _as_layer_has_it(named[name].detach(), graph.param_shape(node)))
    model.register_forward_hook(lambda _module, _inputs, output: heads(output)[0])
    return model.train()


def _as_layer_has_it(own: Tensor, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Leads from a parameter in the shape of its node to that of its layer.

    A convolution that is the head is a matrix in the graph, and a positional encoding (1, T, C) a
    grid (1, C, H, W), whose positions are the last ones of T; the first, class tokens, are not
    predicted.

    Args:
        own: the parameter as it was initialised.
        shape: of its node.
    """
    if len(shape) != 4 or own.dim() != 3:
        return lambda given: given.view(own.shape)
    first = own[:, : own.shape[1] - shape[2] * shape[3]].clone()

    def tokens(given: Tensor) -> Tensor:
        return torch.cat((first.to(given), given.flatten(2).mT), dim=1)

    return tokens


def _reshape(model: nn.Module, name: str, change: Callable[[Any], Any]) -> None:
    """Has a layer see what `change` makes of its parameter."""
    path, _, key = name.rpartition(".")
    layer = model.get_submodule(path)
    given: list[Any] = []

    def view(layer: nn.Module, _inputs: Any) -> None:
        given.append(layer._parameters[key])
        layer._parameters[key] = change(given[-1])

    def undo(layer: nn.Module, _inputs: Any, _output: Any) -> None:
        # `functional_call` hands back what it finds, and gradients are asked for of what was given
        layer._parameters[key] = given.pop()

    layer.register_forward_pre_hook(view)
    layer.register_forward_hook(undo, always_call=True)


def _predicted(graph: Graph) -> set[str]:
    """The parameters that any hypernetwork predicts."""
    planned = plan([graph], [0], GHNConfig())
    groups = (*planned.tensors, *planned.vectors)
    return {name for group in groups for name in (*group.names, *group.biases)}


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves what has values to a device, in place."""
    move: Callable[[Tensor], Tensor] = lambda t: t if t.is_meta else t.to(device)  # noqa: E731
    model._apply(move)  # type: ignore[no-untyped-call]
    return model


def _write(path: Path, graph: Graph, cost: float) -> None:
    text = json.dumps({"graph": graph.to_json_dict(), "cost": cost})
    with atomic_path(path) as temporary:
        temporary.write_text(f"{digest(text)}\n{text}")


def _read(path: Path, name: str) -> tuple[Graph, float] | None:
    """A graph and a cost from the cache; None where there is none, or a damaged one."""
    try:
        written, text = path.read_text().split("\n")
        if written != digest(text):
            return None
        note = json.loads(text)
        return from_json_dict(note["graph"], name), float(note["cost"])
    except (OSError, ValueError, KeyError, GHNError):  # it is made again
        return None
