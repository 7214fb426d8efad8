"""The decoders: from node embeddings to parameters (section A.1; Knyazev et al., 2021).

Notable:
- only what is needed is computed: the window of the spatial grid, the rows and columns of the
  channel block and the classes that some parameter takes, as slices of the weights rather than of
  the outputs;
- parameters are decoded together: one matrix product per window and one per block of channels, for
  all networks;
- a decoded block stays small, tiling comes last (`ghn.models.decoding.tiling`);
- this is the differentiable way, for training; `ghn.models.decoding.stream` decodes without
  gradients, faster and in pieces.

Shape legend: G parameters of a group, P positions (rows of a matrix product), D hidden features,
O/I output/input channels, Y/X kernel height/width, K classes, M decoder channels, S side of the
decoder's grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.models.config import GHNConfig
from ghn.models.decoding.bases import BESIDE
from ghn.models.decoding.buckets import Bucket, buckets
from ghn.models.decoding.costs import costs
from ghn.models.decoding.plan import Group, Kind, Plan
from ghn.models.decoding.sliced import leading, sliced_linear
from ghn.models.sending import send_list


class TensorDecoder(nn.Module):
    """Decodes tensors of two or more dimensions: Linear to an S x S grid of 4d features, then per
    position to O x I.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        d, s, m = config.hidden, config.decoder_kernel, config.decoder_channels
        self.config = config
        self.grid, self.channels = s, m
        self.features = 4 * d
        self.spatial = nn.Linear(d, 4 * d * s * s)
        self.hidden = nn.Linear(4 * d, 8 * d)
        self.block = nn.Linear(8 * d, m * m)
        self.classes = nn.Linear(m, config.num_classes)

    def _hidden_features(self, h_ND: Tensor, decoded: Sequence[Bucket]) -> Sequence[Tensor]:
        """For each bucket its (P, 8d) features: by group, then parameter, then position."""
        groups = [group for bucket in decoded for group in bucket.groups]
        by_window: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
        for i, group in enumerate(groups):
            by_window.setdefault(group.window, []).append(i)
        nodes = [n for members in by_window.values() for i in members for n in groups[i].nodes]
        h_PD = h_ND[send_list(nodes, h_ND.device)]
        counts = [sum(len(groups[i]) for i in members) for members in by_window.values()]
        grids = sliced_linear(
            self.spatial.weight,
            self.spatial.bias,
            (self.features, self.grid, self.grid),
            [(slice(None), slice(*y), slice(*x)) for y, x in by_window],
            torch.split(h_PD, counts),
        )
        pieces: list[Tensor | None] = [None] * len(groups)
        for members, grid in zip(by_window.values(), grids, strict=True):
            positions = groups[members[0]].positions
            grid_GPF = grid.view(len(grid), self.features, positions).mT
            for i, piece in zip(
                members, torch.split(grid_GPF, [len(groups[i]) for i in members]), strict=True
            ):
                pieces[i] = piece.reshape(-1, self.features)
        features_PF = F.relu(torch.cat([piece for piece in pieces if piece is not None]))
        return torch.split(
            F.relu(self.hidden(features_PF)), [bucket.positions for bucket in decoded]
        )

    def forward(self, h_ND: Tensor, plan: Plan) -> Iterator[tuple[Group, Tensor]]:
        """Yields each group with its (G, ...) scaled blocks. Differentiable."""
        if not plan.tensors:
            return
        decoded = buckets(plan.tensors, self.config, costs(h_ND.device), copied=True)
        blocks = sliced_linear(
            self.block.weight,
            self.block.bias,
            (self.channels, self.channels),
            [leading(*bucket.channels) for bucket in decoded],
            self._hidden_features(h_ND, decoded),
        )
        for bucket, block in zip(decoded, blocks, strict=True):
            block_POI = block.view(-1, *bucket.channels)
            counts = [len(group) * group.positions for group in bucket.groups]
            for group, w_POI in zip(bucket.groups, torch.split(block_POI, counts), strict=True):
                w = (
                    self.map_to_classes(group, w_POI)
                    if group.kind is Kind.class_weight
                    else assemble(group, w_POI)
                )
                yield group, w if group.scale == 1 else w * group.scale

    def map_to_classes(self, group: Group, w_POI: Tensor) -> Tensor:
        """(G, K, ...) class weights, not scaled, from blocks with all output channels.

        Beside a base they sum to zero over input channels: features behind a ReLU are positive, and
        what they have in common tells no image apart, but would outweigh all else in the gradient.
        """
        k = min(group.shape[0], self.classes.out_features)
        w_GIO = F.relu(w_POI[:, :, : group.channels[1]].mT)
        w_GIK = F.linear(w_GIO, self.classes.weight[:k], self.classes.bias[:k])
        if BESIDE[self.config.base].centred_heads:
            w_GIK = w_GIK - w_GIK.mean(1, keepdim=True)
        return assemble(group, w_GIK.mT)


def assemble(group: Group, w_POI: Tensor) -> Tensor:
    """(G, ...) blocks with the dimensions of the group's shape, from what was decoded of each
    position.

    Args:
        group: G parameters.
        w_POI: by parameter, then position; all or some of the output channels and at least the
            group's input channels.
    """
    outputs, inputs = group.channels
    if group.kind is Kind.class_weight:
        outputs = w_POI.shape[1]
    w_GPOI = torch.unflatten(w_POI, 0, (-1, group.positions))[:, :, :outputs, :inputs]
    if len(group.shape) == 2 and group.kind is not Kind.position:
        return w_GPOI[:, 0]
    g, _, o, i = w_GPOI.shape
    w_GOIYX = torch.unflatten(w_GPOI.permute(0, 2, 3, 1), 3, group.window_size)
    # a kernel larger than the grid is interpolated from the whole grid
    if group.kernel != group.window_size:
        w_GOIYX = F.interpolate(
            w_GOIYX.reshape(g * o, i, *group.window_size), group.kernel, mode="bilinear"
        )
        w_GOIYX = w_GOIYX.view(g, o, i, *group.kernel)
    if group.kind is Kind.position and len(group.shape) < 4:
        w = w_GOIYX[:, 0].flatten(2).mT  # (G, positions, channels)
        return w[:, None] if len(group.shape) == 3 else w
    return as_kernel(group, w_GOIYX)


def as_kernel(group: Group, w_GOIYX: Tensor) -> Tensor:
    """Kernels of one, two or three dimensions, as the group's shape has them."""
    if len(group.shape) == 5:
        return torch.unflatten(w_GOIYX, 3, group.shape[2:4])
    return w_GOIYX[..., 0] if len(group.shape) == 3 else w_GOIYX


class VectorDecoder(nn.Module):
    """Decodes norm weights, norm biases and the biases of layers with a small MLP of two
    outputs.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        d, m = config.hidden, config.decoder_channels
        self.channels = m
        self.normalize = config.normalize
        self.norm_bias = BESIDE[config.base].norm_bias
        self.hidden = nn.Linear(d, 2 * d)
        self.out = nn.Linear(2 * d, 2 * m)
        self.classes = nn.Linear(m, config.num_classes)

    def forward(self, h_ND: Tensor, plan: Plan) -> Iterator[tuple[Group, Tensor, Tensor | None]]:
        """Yields each group with (G, channels) weights and biases of norms, or biases and None.
        Differentiable.
        """
        if not plan.vectors:
            return
        norms = [group for group in plan.vectors if group.kind is Kind.norm]
        biases = [group for group in plan.vectors if group.kind is not Kind.norm]
        hidden_PF = F.relu(
            self.hidden(h_ND[send_list([n for g in norms + biases for n in g.nodes], h_ND.device)])
        )
        n_norms = sum(len(group) for group in norms)
        grid = (2, self.channels)
        norm, bias = sliced_linear(
            self.out.weight,
            self.out.bias,
            grid,
            [leading(*grid), (slice(1, 2), slice(None))],
            [hidden_PF[:n_norms], hidden_PF[n_norms:]],
        )
        norm_weight, norm_bias = torch.split(norm, self.channels, dim=1)
        if self.normalize:
            norm_weight, norm_bias = (
                2 * torch.sigmoid(0.5 * norm_weight),
                torch.tanh(0.2 * norm_bias),
            )
        if self.norm_bias:
            norm_bias = norm_bias + self.norm_bias
        counts = [len(group) for group in norms]
        for group, weight_GC, bias_GC in zip(
            norms, torch.split(norm_weight, counts), torch.split(norm_bias, counts), strict=True
        ):
            c = group.channels[0]
            yield group, weight_GC[:, :c], bias_GC[:, :c]
        for group, bias_GC in zip(
            biases, torch.split(bias, [len(group) for group in biases]), strict=True
        ):
            if group.kind is Kind.class_bias:
                k = min(group.shape[0], self.classes.out_features)
                bias_GC = F.linear(F.relu(bias_GC), self.classes.weight[:k], self.classes.bias[:k])
            else:
                bias_GC = bias_GC[:, : group.channels[0]]
            yield group, torch.tanh(0.2 * bias_GC) if self.normalize else bias_GC, None
