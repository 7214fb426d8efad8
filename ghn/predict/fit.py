"""Whether a network is one that a hypernetwork can be expected to know."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.graph import Graph
from ghn.predict.protocol import Hypernetwork
from ghn.tracing.inputs import own_image_size
from ghn.tracing.run import Traced

SMALL_IMAGE = 64
"""Largest side of what counts as a small image, in pixels."""


def misfits(
    ghn: Hypernetwork, model: nn.Module, graph: Graph, traced: Traced | None, keep_head: bool
) -> tuple[str, ...]:
    """What of `model` does not fit the hypernetwork, or the parameters that it predicts: number of
    classes, image size, running statistics.

    Args:
        ghn: the hypernetwork.
        model: the network.
        graph: of it.
        traced: how it was traced, if it was.
        keep_head: whether its last layers keep their values.
    """
    found = [_classes(ghn, graph)] if graph.head and not keep_head else []
    found += [_images(ghn, model, traced), _statistics(model)]
    return tuple(problem for problem in found if problem)


def _classes(ghn: Hypernetwork, graph: Graph) -> str:
    classes = int(graph.shape[graph.head[0], 0])
    if classes == ghn.num_classes:
        return ""
    return (
        f"it has {classes:,} classes, the hypernetwork was trained for {ghn.num_classes:,}: the"
        " head means nothing before it is trained"
    )


def _images(ghn: Hypernetwork, model: nn.Module, traced: Traced | None) -> str:
    known = ghn.image_size
    size = own_image_size(model) or (traced.image_size if traced else None)
    if size is None or (size <= SMALL_IMAGE) == (known <= SMALL_IMAGE):
        return ""
    return f"it takes images of {size} pixels, the hypernetwork was trained on {known} pixels"


def norms_with_statistics(model: nn.Module) -> list[nn.Module]:
    """The norms of a network that keep running statistics: those of PyTorch, and others that name
    their buffers in the same way (`FrozenBatchNorm2d` of torchvision).
    """
    return [module for module in model.modules() if _running(module)[0] is not None]


def _statistics(model: nn.Module) -> str:
    run = [norm for norm in norms_with_statistics(model) if _has_run(norm)]
    if not run:
        return ""
    own = {type(norm).__name__ for norm in run if not isinstance(norm, _BatchNorm)}
    advice = "ghn.reestimate_batch_norm(model, batches) replaces them"
    if own:
        advice += f", but not those of {', '.join(sorted(own))}"
    return (
        f"the running statistics of {len(run)} norms are those of the old parameters and stay:"
        f" {advice}"
    )


def _running(module: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    return module._buffers.get("running_mean"), module._buffers.get("running_var")


def _has_run(norm: nn.Module) -> bool:
    mean, variance = _running(norm)
    if mean is None or variance is None or mean.is_meta:
        return False
    return bool(torch.any(mean != 0)) or bool(torch.any(variance != 1))
