"""Which decoders a configuration asks for."""

from __future__ import annotations

from torch import nn

from ghn.models.config import GHNConfig
from ghn.models.decoding.decoder import TensorDecoder, VectorDecoder
from ghn.models.decoding.low_rank import LowRankDecoder, LowRankVectors

Tensors = TensorDecoder | LowRankDecoder
Vectors = VectorDecoder | LowRankVectors


def decoders(config: GHNConfig) -> tuple[Tensors, Vectors]:
    """The decoders of tensors and of vectors; low-rank ones share their layers."""
    if config.decoder == "low-rank":
        return (decoder := LowRankDecoder(config)), LowRankVectors(decoder)
    return TensorDecoder(config), VectorDecoder(config)


def last_layers(tensors: Tensors, vectors: Vectors) -> tuple[nn.Linear, ...]:
    """Of tiled decoders the layers whose outputs are parameters. Low-rank ones, whose outputs are
    products, have none.
    """
    if isinstance(tensors, LowRankDecoder) or isinstance(vectors, LowRankVectors):
        return ()
    return tensors.block, tensors.classes, vectors.out
