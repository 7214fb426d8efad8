"""What the reference does with a batch of graphs of different sizes, to compare training steps with
it.

Released checkpoints are unaffected when they predict for one network at a time. In a batch the
reference pads graphs to the largest, lets padding take part in the Transformer as nodes of their
own, flattens the result, and then looks up the nodes of graph b at the sum of the *unpadded* sizes
before it: all graphs but the first read embeddings of other graphs' nodes or of padding. Training
with `GHN.forward` reads the right ones; `test_train_step` holds loss and gradients of a
whole step against reference outputs with it, in the reference's node order.

Shape legend: B graphs, N nodes, D hidden features, H heads.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import ConfigError
from ghn.models import GHN, Prediction
from ghn.models.batch import GraphBatch
from ghn.models.message_passing.transformer import Attention, Layer, Transformer


def decode_as_reference(ghn: GHN, batch: GraphBatch) -> Prediction:
    """`GHN.forward` with the reference's rows. Differentiable.

    Raises:
        ConfigError: the hypernetwork has no Transformer (the reference's other message passing does
            not pad).
    """
    if not isinstance(ghn.message_passing, Transformer) or ghn.message_passing.edge is None:
        raise ConfigError(
            "only a hypernetwork with attention and an edge term has the reference's batching quirk"
        )
    batch = batch.to(ghn.device)
    real_BNN = batch.mask_BN[:, :, None] & batch.mask_BN[:, None, :]
    edge_BHNN = ghn.message_passing.edge(batch)
    edge_BHNN = edge_BHNN.masked_fill(~real_BNN[:, None], 0.0)
    h_BND = ghn.embedding(batch) * batch.mask_BN[..., None]
    for layer in ghn.message_passing.layers:
        assert isinstance(layer, Layer)
        h_BND = h_BND + _attend(layer.attention, layer.norm1(h_BND), edge_BHNN, real_BNN)
        h_BND = h_BND + layer.down(F.gelu(layer.up(layer.norm2(h_BND))))
    offsets = [0, *itertools.accumulate(batch.n_nodes)][:-1]
    return ghn.decode_embeddings(ghn.norm(h_BND), batch.graphs, offsets)


def _attend(attention: Attention, h_BND: Tensor, edge_BHNN: Tensor, real_BNN: Tensor) -> Tensor:
    """Attention in which padding attends to everything alike."""
    b, n, d = h_BND.shape
    q_BHNd, k_BHNd, v_BHNd = (
        attention.qkv(h_BND).view(b, n, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    )
    logit_BHNN = q_BHNd @ k_BHNd.mT * (d // attention.heads) ** -0.5 + edge_BHNN
    weight_BHNN = torch.softmax(logit_BHNN.masked_fill(~real_BNN[:, None], -(2.0**15)), dim=-1)
    return attention.out((weight_BHNN @ v_BHNd).transpose(1, 2).reshape(b, n, d))  # type: ignore[no-any-return]
