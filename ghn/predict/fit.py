"""Whether a network is one that a hypernetwork can be expected to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.graph import Graph, Primitive
from ghn.predict.protocol import Hypernetwork
from ghn.tracing.inputs import own_image_size
from ghn.tracing.run import Traced

SMALL_IMAGE = 64
"""Largest side of what counts as a small image, in pixels."""

AT_CHANCE = 1.25
"""Accuracies below so many times chance are those of networks that are not helped: of ten classes,
three networks and 256 images, two standard errors above it.
"""


def misfits(
    ghn: Hypernetwork, model: nn.Module, graph: Graph, traced: Traced | None, keep_head: bool
) -> tuple[str, ...]:
    """What of `model` does not fit the hypernetwork, or the parameters that it predicts: number of
    classes, image size, running statistics, no last layer that could be kept.

    Args:
        ghn: the hypernetwork.
        model: the network.
        graph: of it.
        traced: how it was traced, if it was.
        keep_head: whether its last layers keep their values.
    """
    found = _head(ghn, graph, keep_head), _images(ghn, model, traced), _statistics(model)
    return tuple(problem for problem in found if problem)


def _head(ghn: Hypernetwork, graph: Graph, keep_head: bool) -> str:
    if keep_head:
        if graph.head:
            return ""
        return (
            "it does not end in a layer of classes that keep_head could keep: all of it is"
            " predicted"
        )
    classes = int(graph.shape[graph.head[0], 0]) if graph.head else ghn.num_classes
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


def kind(graph: Graph) -> str:
    """The kind of a network, as far as it decides whether predictions help: attention, batch norm,
    layer norm or no norm.
    """
    found = set(graph.primitive.tolist())
    kinds = {"attention": Primitive.msa, "batch norm": Primitive.bn, "layer norm": Primitive.ln}
    return next((name for name, one in kinds.items() if one in found), "no norm")


def not_helped(ghn: Hypernetwork, graph: Graph) -> list[str]:
    """What was measured of networks of this kind, where that is no better than chance.

    The hypernetwork's metadata has the accuracies of predicted parameters without training, as
    fractions by kind, under `accuracy` (`benchmarks/kinds.py` measures them); without it nothing is
    known.
    """
    measured = ghn.metadata.get("accuracy")
    value = measured.get(kind(graph)) if isinstance(measured, Mapping) else None
    chance = 1 / ghn.num_classes
    if not isinstance(value, float) or value >= AT_CHANCE * chance:
        return []
    return [
        f"networks of its kind ({kind(graph)}) were measured at {value:.1%} with this hypernetwork,"
        f" chance is {chance:.1%}: predicted parameters are not known to help; compare with random"
        " ones"
    ]


def norms_with_statistics(model: nn.Module) -> list[nn.Module]:
    """The norms of a network that keep running statistics: those of PyTorch, and others that name
    their buffers in the same way (`FrozenBatchNorm2d` of torchvision).
    """
    return [module for module in model.modules() if _running(module)[0] is not None]


def _statistics(model: nn.Module) -> str:
    norms = norms_with_statistics(model)
    run = [norm for norm, has in zip(norms, _have_run(norms), strict=True) if has]
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


def _have_run(norms: Sequence[nn.Module]) -> list[bool]:
    """For each norm whether its statistics are not those of a new one; false where there are none.

    All are looked at and read together: each call takes time to launch on a GPU, each reading waits
    for it.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for number, norm in enumerate(norms):
        mean, variance = _running(norm)
        if mean is not None and variance is not None and not mean.is_meta:
            found[number] = mean, variance
    if not found:
        return [False] * len(norms)
    means, variances = zip(*found.values(), strict=True)
    apart = [
        *torch._foreach_norm(means, 1),
        *torch._foreach_norm(torch._foreach_sub(variances, 1), 1),
    ]
    sizes = torch.stack([size.float().to(means[0].device) for size in apart]).tolist()
    run = {n for n, size in zip([*found, *found], sizes, strict=True) if size != 0}
    return [number in run for number in range(len(norms))]
