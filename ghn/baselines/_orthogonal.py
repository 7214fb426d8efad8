"""Orthogonal initialisation (Saxe et al., 2013): every layer's weight preserves norms, as a
matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghn.predict.weights import LayerWeights


@torch.no_grad()
def orthogonal(model: nn.Module, *, gain: float = 1.0, seed: int = 0) -> nn.Module:
    """Replaces every weight of two or more dimensions by a random (semi-)orthogonal matrix, in
    place.

    A convolution's weight is seen as the matrix of one group, out channels (of a transposed one in
    channels) against the other channels times kernel, so that a depthwise or grouped convolution
    gets one orthogonal matrix per group. Biases become zero; norms stay as they are, and so do
    embeddings (class tokens, positions), which are not maps. Frozen parameters (`requires_grad`
    off) stay, too; a computed weight (weight norm and other parametrizations) is written by way of
    the parameters behind it.

    Args:
        gain: all singular values of the result.
        seed: of the random matrices.

    Returns:
        the model, for chaining.
    """
    layers = LayerWeights(model)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            parts = {"weight": getattr(module, "groups", 1)}
            bias = "bias"
        elif isinstance(module, nn.MultiheadAttention):
            separate = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight"), 1)
            parts = {"in_proj_weight": 3, **separate}
            bias = "in_proj_bias"
        else:
            continue
        for name, count in parts.items():
            if (weight := getattr(module, name)) is None or not layers.trains(module, name):
                continue
            matrices = [orthogonal_like(part, generator) * gain for part in weight.chunk(count)]
            layers.write(module, name, torch.cat(matrices))
        if (old := getattr(module, bias)) is not None:
            layers.write(module, bias, torch.zeros_like(old))
    return model


def orthogonal_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random weight of the shape of `weight` with orthonormal rows, or columns if it has more
    rows than columns.

    The matrix is drawn with at least as many rows as columns: uniform over such matrices.
    """
    rows, columns = len(weight), weight[0].numel()
    tall = torch.empty(max(rows, columns), min(rows, columns), device="cpu")
    nn.init.orthogonal_(tall, generator=generator)
    matrix = tall.T if rows < columns else tall
    return matrix.reshape(weight.shape).to(weight)


@torch.no_grad()
def orthogonalise(model: nn.Module, *, from_layer: int = 1, min_channels: int = 0) -> int:
    """Makes the weights of `model` orthogonal, in place: GHN-orth (Knyazev, 2022, "Pretraining a
    Neural Network before Knowing Its Architecture").

    Each weight, as a matrix W of out channels against the rest, is replaced by the nearest that QR
    gives: Q of W = QR with a positive diagonal of R, so that what is orthogonal already stays. Of
    tiled predictions many rows are equal: add noise before (`ghn.finetune.break_symmetry`).

    Args:
        model: its layers with a weight of two or more dimensions are counted from 1 in the order of
            its modules; the last, the classifier, stays, and so do frozen weights.
        from_layer: the first layer that is changed.
        min_channels: layers with at most so many in and out channels stay.

    Returns:
        the number of weights changed.
    """
    layers = LayerWeights(model)
    weights = [
        (weight, module)
        for module in model.modules()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() >= 2
    ]
    changed = 0
    for weight, module in weights[max(from_layer - 1, 0) : -1]:
        if max(weight.shape[:2]) <= min_channels:
            continue
        rows = weight.reshape(len(weight), -1)
        rows = rows.float() if rows.dtype.itemsize < 4 else rows  # QR knows no half precision
        wide = rows.shape[0] < rows.shape[1]
        q, r = torch.linalg.qr(rows.T if wide else rows)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        value = (q.T if wide else q).reshape(weight.shape)
        changed += layers.write(module, "weight", value.to(weight.dtype))
    return changed
