"""The parameter names and shapes of released checkpoints (repositories ppuda and ghn3), mapped to
ours and back.

Foreign names appear in this file only. Quirks of released files that are undone here:
- the three structural embeddings of GHN-3 sit at top level in some files, inside the first layer in
  others;
- the decoder's linear layers are 1 x 1 convolutions (4-D weights) in files written by ppuda;
- prefixes `module.` and `_orig_mod.`, left by data-parallel training and `torch.compile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ghn.errors import UnsupportedFormatError
from ghn.models.config import GHNConfig

# (released pattern, ours); "#" is a layer number. The first of several released patterns is the one
# that is written.
_NAMES: tuple[tuple[str, str], ...] = (
    ("embed.weight", "embedding.primitive.weight"),
    ("shape_enc.embed_channel.weight", "embedding.channel.weight"),
    ("shape_enc.embed_spatial.weight", "embedding.kernel.weight"),
    ("gnn.0.centrality_embed_in.weight", "embedding.in_degree.weight"),
    ("gnn.0.centrality_embed_out.weight", "embedding.out_degree.weight"),
    ("gnn.0.input_dist_embed.weight", "embedding.input_distance.weight"),
    ("centrality_embed_in.weight", "embedding.in_degree.weight"),
    ("centrality_embed_out.weight", "embedding.out_degree.weight"),
    ("input_dist_embed.weight", "embedding.input_distance.weight"),
    ("gnn.0.attn.edge_embed.embed.weight", "message_passing.edge.distance.weight"),
    ("gnn.0.attn.proj_e.0.*", "message_passing.edge.hidden.*"),
    ("gnn.0.attn.proj_e.2.*", "message_passing.edge.out.*"),
    ("gnn.#.ln1.*", "message_passing.layers.#.norm1.*"),
    ("gnn.#.attn.to_qkv.*", "message_passing.layers.#.attention.qkv.*"),
    ("gnn.#.attn.to_out.0.*", "message_passing.layers.#.attention.out.*"),
    ("gnn.#.ln2.*", "message_passing.layers.#.norm2.*"),
    ("gnn.#.ff.net.0.*", "message_passing.layers.#.up.*"),
    ("gnn.#.ff.net.3.*", "message_passing.layers.#.down.*"),
    ("gnn.mlp.fc.0.*", "message_passing.message.up.*"),
    ("gnn.mlp.fc.2.*", "message_passing.message.down.*"),
    ("gnn.mlp_ve.fc.0.*", "message_passing.virtual_message.up.*"),
    ("gnn.mlp_ve.fc.2.*", "message_passing.virtual_message.down.*"),
    ("gnn.gru.*", "message_passing.gru.*"),
    ("gnn.fc.0.*", "message_passing.up.*"),
    ("gnn.fc.2.*", "message_passing.down.*"),
    ("ln.*", "norm.*"),
    ("decoder.fc.0.*", "tensors.spatial.*"),
    ("decoder.conv.0.*", "tensors.hidden.*"),
    ("decoder.conv.2.*", "tensors.block.*"),
    ("decoder.class_layer_predictor.1.*", "tensors.classes.*"),
    ("decoder_1d.fc.0.*", "vectors.hidden.*"),
    ("decoder_1d.fc.2.*", "vectors.out.*"),
    ("bias_class.1.*", "vectors.classes.*"),
)


def _rules(pairs: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for source, target in pairs:
        pattern = (
            re.escape(source).replace(r"\#", r"(?P<layer>\d+)").replace(r"\*", r"(?P<rest>[a-z_]+)")
        )
        rules.append(
            (re.compile(pattern), target.replace("#", r"\g<layer>").replace("*", r"\g<rest>"))
        )
    return rules


_FROM_RELEASED = _rules(_NAMES)
_TO_RELEASED = _rules(tuple((ours, released) for released, ours in _NAMES))


def _rename(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rules:
        if match := pattern.fullmatch(name):
            return match.expand(target)
    return None


def without_wrappers(name: str) -> str:
    """A name without the prefixes that `DistributedDataParallel` and `torch.compile` leave."""
    return re.sub(r"^((module|_orig_mod)\.)+", "", name)


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the released names."""
    return any(name.endswith("shape_enc.embed_channel.weight") for name in state)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from one with released names.

    Raises:
        UnsupportedFormatError: a name is unknown.
    """
    ours: dict[str, Tensor] = {}
    for released, tensor in state.items():
        name = _rename(without_wrappers(released), _FROM_RELEASED)
        if name is None:
            raise UnsupportedFormatError(
                f"no part of a hypernetwork is called {released!r}; is this a GHN checkpoint?"
            )
        if tensor.dim() == 4:
            tensor = tensor.flatten(1)
        ours[name] = tensor
    return ours


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with released names from one of ours; the inverse of `from_released`."""
    released: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        name = _rename(ours, _TO_RELEASED)
        if name is None:
            raise UnsupportedFormatError(f"{ours!r} has no counterpart in released checkpoints")
        released[name] = tensor
    return released


def config_from_released(config: Mapping[str, Any], inferred: GHNConfig) -> GHNConfig:
    """The configuration of a released checkpoint that has one: it adds to what shapes tell the
    heads and the switches.

    Raises:
        ConfigError: a value is not allowed.
        UnsupportedFormatError: the checkpoint has the MLP decoder, which no hypernetwork of the
            paper uses.
    """
    if config.get("decoder", "conv") != "conv":
        raise UnsupportedFormatError(
            f"a hypernetwork with the decoder {config['decoder']!r}; only 'conv' is supported"
        )
    known = {"heads": "heads", "weight_norm": "normalize", "ve": "virtual_edges"}
    given = {
        ours: config[theirs] for theirs, ours in known.items() if config.get(theirs) is not None
    }
    if inferred.message_passing != "transformer":
        given.pop("heads", None)
    if "is_ghn2" in config:
        given["window"] = "corner" if config["is_ghn2"] else "center"
    return GHNConfig(**(inferred.to_dict() | given))


def infer_config(state: Mapping[str, Tensor]) -> GHNConfig:
    """The configuration of a hypernetwork from the shapes of its (our) state dict.

    Two things leave no trace in shapes and follow the released recipes: the number of heads where
    there is no edge term (16 for d > 64, else 8), and that all but GHN-1 (no layer norm and no
    virtual edges) normalise what they predict.

    Raises:
        UnsupportedFormatError: an essential tensor is missing.
    """
    try:
        hidden = state["embedding.primitive.weight"].shape[1]
        num_classes = state["tensors.classes.weight"].shape[0]
        decoder_channels = state["tensors.classes.weight"].shape[1]
        decoder_kernel = round((state["tensors.spatial.weight"].shape[0] // (4 * hidden)) ** 0.5)
    except KeyError as error:
        raise UnsupportedFormatError(
            f"not a hypernetwork: the state dict has no {error.args[0]!r}"
        ) from None
    layers = {name.split(".")[2] for name in state if name.startswith("message_passing.layers.")}
    edge = state.get("message_passing.edge.out.weight")
    edge_inputs = state["message_passing.edge.hidden.weight"].shape[1] if edge is not None else 0
    gated = "message_passing.gru.weight_ih" in state
    virtual_edges = bool(layers) or "message_passing.virtual_message.up.weight" in state
    layer_norm = "norm.weight" in state
    structure = "embedding.in_degree.weight" in state or "embedding.input_distance.weight" in state
    ghn3 = bool(layers) or structure
    return GHNConfig(
        message_passing="transformer" if layers else ("gated" if gated else "mlp"),
        hidden=hidden,
        layers=max(1, len(layers)),
        heads=(len(edge) if edge is not None else (16 if hidden > 64 else 8)) if layers else 1,
        num_classes=num_classes,
        decoder_channels=decoder_channels,
        decoder_kernel=decoder_kernel,
        edge_embedding=(
            "none" if edge is None else ("both" if edge_inputs == 2 * hidden else "forward")
        ),
        centrality="embedding.in_degree.weight" in state,
        input_distance="embedding.input_distance.weight" in state,
        virtual_edges=virtual_edges or structure,
        layer_norm=layer_norm,
        normalize=layer_norm or virtual_edges,
        window="center" if ghn3 else "corner",
    )
