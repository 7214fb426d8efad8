"""The configuration of a hypernetwork: every architecture and ablation of the paper is one
instance.

What training decides (the penalty of eq. 10 and its weight gamma, the weight decay of table 10) is
not here: it changes no parameter and no output of the hypernetwork.
"""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ghn.errors import ConfigError

MessagePassing = Literal["transformer", "gated", "mlp"]
EdgeEmbedding = Literal["both", "forward", "none"]
Window = Literal["center", "corner"]
Decoder = Literal["tiled", "low-rank"]
Flattened = Literal["columns", "kernels"]
Shuffled = Literal["places", "channels"]
Base = Literal["zero", "identity"]

SMALL_IMAGES, LARGE_IMAGES = 32, 224  # pixels
SMALL_DECODER = 11
"""Side of the decoded kernels of hypernetworks that were trained on 32-pixel images (16 for
ImageNet).
"""


class GHNConfig(BaseModel):
    """Architecture of a hypernetwork; the defaults are GHN-3-T for ImageNet."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    message_passing: MessagePassing = Field(
        default="transformer",
        description=(
            "how nodes exchange information: transformer (GHN-3), gated (the GatedGNN of GHN-1 and"
            " GHN-2) or mlp (not at all: each node passes a two-layer MLP)"
        ),
    )
    hidden: int = Field(
        default=64,
        ge=1,
        description=(
            "width d of the node embeddings; a multiple of 4 (four shape embeddings share it) and"
            " of heads"
        ),
    )
    layers: int = Field(default=3, ge=1, description="number L of transformer or GatedGNN layers")
    heads: int = Field(default=8, ge=1, description="number k of attention heads")
    num_classes: int = Field(
        default=1000, ge=1, description="classes of the data set the hypernetwork is trained on"
    )
    decoder_channels: int = Field(
        default=64,
        ge=1,
        description=(
            "largest number of output and input channels that is decoded; wider tensors are tiled"
        ),
    )
    decoder_kernel: int = Field(
        default=16,
        ge=1,
        description="side s of the decoded spatial grid: 16 for ImageNet, 11 for 32-pixel images",
    )
    edge_embedding: EdgeEmbedding = Field(
        default="both",
        description=(
            "edge term of eq. 9: both directions, the forward one only, or none (eq. 6; table 5)"
        ),
    )
    centrality: bool = Field(
        default=True,
        description="embeddings of in-degree and out-degree (eq. 7; table 11, v)",
    )
    input_distance: bool = Field(
        default=True,
        description="embedding of the distance from the input (section A.1; table 11, vi)",
    )
    virtual_edges: bool = Field(
        default=True,
        description=(
            "the GatedGNN also passes messages along paths of up to 50 edges, weighted by 1/length"
            " (GHN-2)"
        ),
    )
    layer_norm: bool = Field(
        default=True, description="normalise node embeddings before they are decoded"
    )
    normalize: bool = Field(
        default=True,
        description=(
            "scale decoded tensors by fan-in and squash norm weights and biases (GHN-2 and GHN-3)"
        ),
    )
    window: Window = Field(
        default="center",
        description=(
            "which part of the s x s grid makes a smaller kernel: its center (GHN-3) or its corner"
            " (GHN-2)"
        ),
    )
    decoder: Decoder = Field(
        default="tiled",
        description=(
            "how tensors are made: tiled (a block of decoder_channels, repeated) or low-rank (the"
            " product of two factors: LoGAH)"
        ),
    )
    flattened: Flattened = Field(
        default="columns",
        description=(
            "what a linear layer behind flattened maps takes its weight for: columns like any"
            " other's (published), or kernels as large as the maps, which repeat by channels"
        ),
    )
    shuffled: Shuffled = Field(
        default="places",
        description=(
            "what a column of a weight is for where channels are shuffled before it: its place"
            " (published), or the channel that it reads"
        ),
    )
    base: Base = Field(
        default="zero",
        description=(
            "what predictions are added to: zero (published), or the identity, with which layers"
            " pass channels on and the first one sees the lowest frequencies"
        ),
    )
    rank: int = Field(default=32, ge=1, description="rank of the factors (low-rank only)")
    factor_length: int = Field(
        default=32768,
        ge=2,
        description=(
            "largest number of rows of a factor, output channels times kernel height; larger"
            " tensors are tiled (low-rank only)"
        ),
    )

    def __init__(self, /, **values: Any) -> None:
        """Checks names, types, ranges and combinations.

        Raises:
            ConfigError: names the field, its value and what is allowed.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_in_words(error)) from None

    @model_validator(mode="after")
    def _check(self) -> GHNConfig:
        if self.hidden % 4:
            raise ValueError(f"GHNConfig.hidden is {self.hidden}; it must be a multiple of 4")
        if self.message_passing == "transformer" and self.hidden % self.heads:
            raise ValueError(
                f"GHNConfig.hidden is {self.hidden}; it must be a multiple of heads = {self.heads}"
            )
        for name in _LOW_RANK if self.decoder == "tiled" else ():
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"GHNConfig.{name} is {value}, which the tiled decoder does not have; leave it"
                    " out or set decoder to low-rank"
                )
        if self.base == "identity" and (self.decoder != "tiled" or not self.normalize):
            raise ValueError(
                "GHNConfig.base is identity, for which decoder must be tiled and normalize true"
            )
        return self

    @classmethod
    def variant(cls, name: str, num_classes: int = 1000) -> GHNConfig:
        """A named variant of the paper (`VARIANTS`), with a grid of 16 for 1000 classes or more and
        of 11 for fewer.

        Raises:
            ConfigError: no variant has that name.
        """
        if name not in VARIANTS:
            raise ConfigError(f"no hypernetwork variant {name!r}; use one of {', '.join(VARIANTS)}")
        fields_ = {"num_classes": num_classes, "decoder_kernel": 16 if num_classes >= 1000 else 11}
        return cls(**(fields_ | VARIANTS[name]))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GHNConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: a key is unknown or a value not allowed.
        """
        return cls(**values)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that a decoder of this size is for."""
        return SMALL_IMAGES if self.decoder_kernel <= SMALL_DECODER else LARGE_IMAGES

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON types; without those of the low-rank decoder where there is none and
        without what is as published, so that files are those of before these existed.
        """
        absent = {"decoder", *_LOW_RANK} if self.decoder == "tiled" else set()
        absent |= set(_AS_PUBLISHED) - self.unpublished.keys()
        return self.model_dump(exclude=absent)

    @property
    def unpublished(self) -> dict[str, str]:
        """What no released format can say, with the values that are not as published."""
        published = {name: type(self).model_fields[name].default for name in _AS_PUBLISHED}
        found = {name: getattr(self, name) for name in _AS_PUBLISHED}
        return {name: value for name, value in found.items() if value != published[name]}

    def to_json(self) -> str:
        """All fields, as one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)


_LOW_RANK = ("rank", "factor_length")
_AS_PUBLISHED = ("flattened", "shuffled", "base")
"""Fields in which all published hypernetworks are alike."""


def _in_words(error: ValidationError) -> str:
    """The first of pydantic's errors, with what to write instead."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        fields = ", ".join(sorted(GHNConfig.model_fields))
        return f"GHNConfig has no field {name!r}; its fields are {fields}"
    kind = GHNConfig.model_fields[name].annotation
    allowed = (
        f"use one of {', '.join(choices)}"
        if (choices := get_args(kind))
        else "it must be true or false"
        if kind is bool
        else "it must be a positive integer"
    )
    return f"GHNConfig.{name} is {first['input']!r}; {allowed}"


def _ghn3(hidden: int, layers: int, heads: int, **changes: Any) -> dict[str, Any]:
    return {
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "decoder_channels": hidden,
    } | changes


def _logah(rank: int, *sizes: int) -> dict[str, Any]:
    return _ghn3(*sizes, decoder="low-rank", rank=rank, decoder_kernel=16)


def _ghn2(hidden: int, **changes: Any) -> dict[str, Any]:
    plain = {
        "centrality": False,
        "input_distance": False,
        "edge_embedding": "none",
        "window": "corner",
    }
    gated = {
        "message_passing": "gated",
        "hidden": hidden,
        "layers": 1,
        "heads": 1,
        "decoder_channels": 2 * hidden,
    }
    return gated | plain | changes


_T = (64, 3, 8)
_NO_EDGES: dict[str, Any] = {"edge_embedding": "none"}

VARIANTS: dict[str, dict[str, Any]] = {
    # Table 2 and section A.1
    "ghn3-t": _ghn3(*_T),
    "ghn3-s": _ghn3(128, 5, 16),
    "ghn3-l": _ghn3(256, 12, 16),
    "ghn3-xl": _ghn3(384, 24, 16),
    "ghn2": _ghn2(32),
    "ghn2-s": _ghn2(128, layers=2, decoder_channels=128),  # table 1
    "ghn1": _ghn2(32, virtual_edges=False, normalize=False, layer_norm=False),
    "mlp": _ghn2(32, message_passing="mlp", virtual_edges=False, normalize=False, layer_norm=False),
    # Table 5 (its other rows change the penalty of eq. 10, which belongs to training)
    "ghn3-t-no-backward": _ghn3(*_T, edge_embedding="forward"),
    "ghn3-t-no-edges": _ghn3(*_T, **_NO_EDGES),  # also table 11, viii
    "ghn3-t-mlp": _ghn3(*_T, **_NO_EDGES, message_passing="mlp"),
    # Table 11. Row iv has the published 2.37M parameters only without the embedding of the input
    # distance.
    "ghn3-32": _ghn3(32, 3, 8, decoder_channels=64, input_distance=False),
    "ghn3-t-no-centrality": _ghn3(*_T, centrality=False),
    "ghn3-t-no-input-distance": _ghn3(*_T, input_distance=False),
    "ghn3-t-no-structure": _ghn3(*_T, **_NO_EDGES, centrality=False, input_distance=False),
    "ghn2-128": _ghn2(128, decoder_channels=128),
    "ghn3-t-wide-decoder": _ghn3(*_T, decoder_channels=256),
    # LoGAH (arXiv 2405.16287, table 1): rank r beside d, L and k
    "logah-t": _logah(32, *_T),
    "logah-s": _logah(90, 128, 5, 16),
    "logah-b": _logah(128, 256, 5, 16),
    "logah-l": _logah(256, 256, 12, 16),
}
"""Names to fields of `GHNConfig`; `GHNConfig.variant` completes them."""
