"""Breaking the symmetry of predicted parameters before they are trained (paper section 5.2, beta =
1e-5).

A hypernetwork tiles one decoded tensor over all channels of a wide layer, so that many channels
start out identical and, since they also get identical gradients, would stay so. Noise far below the
scale of the weights parts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ghn.predict.weights import LayerWeights, padding_rows

_WEIGHTS = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""What layers call their weights; the last four are of `nn.MultiheadAttention`."""


def correlation_std(weight: Tensor) -> float:
    """Standard deviation of all entries of the correlation matrix between the rows of a weight
    (Knyazev, 2022).

    The weight is seen as a matrix, out channels against the rest, turned so that it has at least as
    many rows R as columns K; R^2 correlations follow. They are never formed: with Z the (R, K)
    matrix of standardised rows, their sum is |Z'1|^2 and the sum of their squares |Z'Z|^2, a K x K
    matrix (0.1 GB rather than 5 GB for the first linear layer of VGG). A constant row correlates
    with nothing and counts as zero.
    """
    w_RK = weight.detach().reshape(len(weight), -1).double()
    if w_RK.shape[0] < w_RK.shape[1]:
        w_RK = w_RK.T
    count = w_RK.shape[0] ** 2
    if count < 2:
        return 0.0
    z_RK = w_RK - w_RK.mean(1, keepdim=True)
    norm_R1 = z_RK.norm(dim=1, keepdim=True)
    tiny = torch.finfo(torch.float32).eps * w_RK.norm(dim=1, keepdim=True)
    z_RK = torch.where(norm_R1 > tiny, z_RK / norm_R1.clamp_min(1e-300), 0.0)
    total = z_RK.sum(0).square().sum()
    squares = (z_RK.T @ z_RK).square().sum()
    return float(((squares - total * total / count) / (count - 1)).clamp_min(0.0).sqrt())


@torch.no_grad()
def break_symmetry(model: nn.Module, beta: float = 1e-5, *, seed: int = 0) -> int:
    """Adds Gaussian noise of scale `beta * correlation_std(weight)` to the layers' weights, in
    place.

    Weights of two or more dimensions take part (also the projections of attention that have no
    layer of their own), each once however many layers share it, but the last of them in the order
    of the modules, taken for the classifier, whose rows belong to different classes and are not
    tied. The more alike or opposed the channels, the wider their correlations spread and the
    stronger the noise; a weight with independent rows hardly gets any. Frozen parameters, which are
    not going to be trained, are left alone; so are rows of padding in embeddings, also where
    another layer shares the weight. A computed weight (weight norm and other parametrizations) gets
    its noise by way of the parameters behind it, if its parametrization can be inverted.

    Args:
        beta: scale; 0 leaves the model alone.
        seed: of the noise, the same for a layer whatever the device.

    Returns:
        the number of weights changed.
    """
    if beta == 0:
        return 0
    layers = LayerWeights(model)
    weights = [
        (weight, module, name)
        for module in model.modules()
        for name in _WEIGHTS
        if isinstance(weight := getattr(module, name, None), Tensor) and weight.dim() >= 2
    ]
    noisy = {
        id(weight): (weight, module, name)
        for weight, module, name in weights
        if weight is not weights[-1][0] and layers.trains(module, name)
    }
    padding = padding_rows(model)
    generator = torch.Generator().manual_seed(seed)
    changed = 0
    for weight, module, name in noisy.values():
        noise = torch.randn(weight.shape, generator=generator, device="cpu")
        if (row := padding.get(id(weight))) is not None:
            noise[row] = 0
        alpha = beta * correlation_std(weight)
        changed += layers.write(module, name, weight.add(noise.to(weight), alpha=alpha))
    return changed
