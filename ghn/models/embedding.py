"""Node embeddings: what a node is, the shape of its parameter and where it stands in the graph (eq.
7, section A.1).

Shape legend: B graphs, N nodes, D hidden features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ghn.graph import N_PRIMITIVES, Primitive
from ghn.models.batch import MAX_DEGREE, GraphBatch
from ghn.models.config import GHNConfig

MAX_INPUT_DISTANCE = 1000
MAX_CHANNELS = 8192


class NodeEmbedding(nn.Module):
    """The sum of the embeddings of primitive, parameter shape and, for GHN-3, centrality and
    distance from the input.

    A shape is four numbers (output channels, input channels, kernel height and width), each
    quantised to a list; the four embeddings of d/4 features are concatenated. A node without a
    shape takes an extra index in each.
    """

    channel_index: Tensor
    kernel_index: Tensor

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        channels = channel_steps(config.num_classes)
        kernels = kernel_steps(config.decoder_kernel)
        d = config.hidden
        self.primitive = nn.Embedding(N_PRIMITIVES, d)
        self.channel = nn.Embedding(len(channels) + 1, d // 4)
        self.kernel = nn.Embedding(len(kernels) + 1, d // 4)
        self.in_degree = nn.Embedding(MAX_DEGREE + 1, d) if config.centrality else None
        self.out_degree = nn.Embedding(MAX_DEGREE + 1, d) if config.centrality else None
        self.input_distance = (
            nn.Embedding(MAX_INPUT_DISTANCE + 1, d) if config.input_distance else None
        )
        # Entry 0 of a table stands for "no shape"; sizes above the last entry are clipped to it.
        channel_index = nearest_index(channels, MAX_CHANNELS)
        # sizes that training does not have: above 3, the next is 8 (also for a number of classes)
        channel_index[4:8] = channel_index[8]
        kernel_index = nearest_index(kernels, 16)
        kernel_index[2] = kernel_index[3]
        self.register_buffer("channel_index", torch.from_numpy(channel_index), persistent=False)
        self.register_buffer("kernel_index", torch.from_numpy(kernel_index), persistent=False)

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B, N, D) embeddings; those of padding are arbitrary but finite."""
        size_BN4 = sizes(batch.shape_BN4, batch.primitive_BN)
        channel_BN2 = self.channel_index[size_BN4[..., :2].clamp(max=len(self.channel_index) - 1)]
        kernel_BN2 = self.kernel_index[size_BN4[..., 2:].clamp(max=len(self.kernel_index) - 1)]
        shape_BND = torch.cat(
            (self.channel(channel_BN2).flatten(2), self.kernel(kernel_BN2).flatten(2)), dim=-1
        )
        h_BND: Tensor = self.primitive(batch.primitive_BN) + shape_BND
        if self.in_degree is not None and self.out_degree is not None:
            in_degree_BN, out_degree_BN = batch.degree_2BN.unbind()
            h_BND = h_BND + self.in_degree(in_degree_BN) + self.out_degree(out_degree_BN)
        if self.input_distance is not None:
            h_BND = h_BND + self.input_distance(batch.distance_BNN[:, 0].int())
        return h_BND


def sizes(shape_BN4: Tensor, primitive_BN: Tensor) -> Tensor:
    """(B, N, 4) int64: output channels, input channels, kernel height and width; zeros where a node
    has no shape.

    Vectors and matrices get a kernel of 1 x 1. Positional encodings of shape (1, positions,
    channels) count as (1, channels, s, s) with s the integer root of the number of positions, so
    that a class token does not matter.
    """
    shape = shape_BN4.long()
    has_shape = shape[..., :1] > 0
    size = torch.where(has_shape, shape.clamp(min=1), 0)
    is_sequence = (primitive_BN == Primitive.pos_enc) & (shape[..., 2] > 1) & (shape[..., 3] == 0)
    one, positions, channels, _ = shape.unbind(-1)
    side = positions.double().sqrt().long()
    grid = torch.stack((one, channels, side, side), dim=-1)
    return torch.where(is_sequence[..., None], grid, size)


def channel_steps(*num_classes: int) -> NDArray[np.int64]:
    """The sorted channel counts that have an embedding: 1, 3, every 8th to 64, every 16th to 4096,
    every 32nd to 8192, and a number of classes.
    """
    steps = [
        [1, 3, *num_classes],
        range(8, 64, 8),
        range(64, 4096, 16),
        range(4096, MAX_CHANNELS + 1, 32),
    ]
    return np.unique(np.concatenate([np.asarray(part) for part in steps]))


def kernel_steps(decoder_kernel: int) -> NDArray[np.int64]:
    """The sorted kernel sizes that have an embedding."""
    return np.unique([*range(1, max(12, decoder_kernel), 2), 14, 16])


def nearest_index(steps: NDArray[np.int64], largest: int) -> NDArray[np.int64]:
    """(largest + 2,) int64: entry c is the index of the step nearest to c (the lower of two), of
    the last step at the end, which stands for all that is larger; entry 0 is `len(steps)`, the
    index of "no shape".
    """
    size = np.arange(largest + 2)
    middle = (steps[1:] + steps[:-1]) / 2
    index: NDArray[np.int64] = np.searchsorted(middle, size).astype(np.int64)
    index[0] = len(steps)
    index[largest + 1] = len(steps) - 1
    return index
