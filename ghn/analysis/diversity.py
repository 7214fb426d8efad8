"""How different the parameters of different architectures are (paper table 9).

Shape legend: T tensors of one shape, O out channels, P entries of a channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

import torch
from torch import Tensor

PAPER_SHAPES = ((64, 3, 7, 7), (256, 256, 3, 3), (1024, 1024, 1, 1))
"""The shapes of table 9."""


def mean_cosine_distance(tensors: Sequence[Tensor], *, match: bool = False) -> float:
    """Mean over all pairs of the absolute cosine distance 1 - |cos(a, b)| of equal-shaped tensors.

    The mean is over pairs of different tensors.

    Args:
        tensors: T >= 2 tensors of one shape (O, ...).
        match: first bring the channels of each pair into the same order (`matched`), as trained
            networks need, whose channels come in arbitrary order.

    Raises:
        ValueError: fewer than two tensors, or of different shapes.
    """
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(tensors) < 2 or len(shapes) != 1:
        raise ValueError(
            f"diversity needs two or more tensors of one shape, not {len(tensors)} of"
            f" {sorted(shapes)}"
        )
    if not match:
        w_TP = torch.stack([tensor.detach().flatten().double() for tensor in tensors])
        w_TP = torch.nn.functional.normalize(w_TP, dim=1)
        distance_TT = 1 - (w_TP @ w_TP.T).abs().clamp(max=1.0)
        upper = torch.triu_indices(len(tensors), len(tensors), 1)
        return float(distance_TT[upper[0], upper[1]].mean())
    distances = [
        1 - abs(_cosine(first, matched(second, first)))
        for place, first in enumerate(tensors)
        for second in tensors[place + 1 :]
    ]
    return sum(distances) / len(distances)


def layer_distance(parameters: Iterable[Tensor]) -> float | None:
    """How different the layers of one network are: the mean of `mean_cosine_distance` over shapes
    of convolutions.

    Args:
        parameters: of the network; those of other than four dimensions are left out.

    Returns:
        0 where all layers of a shape have the same weights; None if no shape occurs twice.
    """
    by_shape = defaultdict(list)
    for parameter in parameters:
        if parameter.dim() == 4:
            by_shape[parameter.shape].append(parameter)
    distances = [mean_cosine_distance(tensors) for tensors in by_shape.values() if len(tensors) > 1]
    return mean(distances) if distances else None


def matched(tensor: Tensor, reference: Tensor) -> Tensor:
    """`tensor` with its out channels in the order that is nearest to `reference` (Hungarian
    matching; Kuhn, 1955).

    The assignment maximises the sum of inner products of paired channels, which minimises the
    Euclidean distance.
    """
    from scipy.optimize import linear_sum_assignment

    a_OP, b_OP = reference.detach().flatten(1).float(), tensor.detach().flatten(1).float()
    _, column_O = linear_sum_assignment((a_OP @ b_OP.T).cpu().numpy(), maximize=True)
    return tensor[torch.from_numpy(column_O).to(tensor.device)]


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(
        torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    )
