"""The values that a new hypernetwork of GHN-3's kind begins with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ghn.models.message_passing.transformer import EdgeTerm


@torch.no_grad()
def draw_small(ghn: nn.Module, last: Iterable[nn.Linear]) -> None:
    """Draws embeddings of norm 1 and makes last layers small, for finite first steps of large
    hypernetworks.

    Args:
        ghn: the hypernetwork, changed in place by the default generator.
        last: the last layers of its decoders.
    """
    for module in ghn.modules():
        if isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)
    for module in ghn.modules():
        if isinstance(module, EdgeTerm):
            module.reset_distance()
    for layer in last:
        layer.weight /= 5.0
        layer.bias.zero_()
