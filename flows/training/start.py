"""The hypernetwork that a training starts from: fresh, or one that was trained before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ghn.errors import ConfigError

if TYPE_CHECKING:
    from ghn.models import GHN, GHNConfig


def new_hypernetwork(config: GHNConfig, seed: int, output_gain: float) -> GHN:
    """A hypernetwork with initial weights drawn by `seed`, those of its last layers times
    `output_gain`.
    """
    import torch

    from ghn.models import GHN
    from ghn.models.decoding.decoders import last_layers

    torch.manual_seed(seed)
    ghn = GHN(config)
    with torch.no_grad():
        for last in last_layers(ghn.tensors, ghn.vectors):
            last.weight *= output_gain
    return ghn


def trained_hypernetwork(source: str, config: GHNConfig, seed: int) -> GHN:
    """The hypernetwork that training goes on from; for another number of classes, what makes class
    heads is drawn anew by `seed`. How it takes layers behind flattened maps and shuffled channels
    may be another from now on: no weight depends on it. A decoder of fewer channels is repeated.

    Raises:
        ConfigError: it is not of the configuration that `train.variant` and `train.ghn` ask for.
        GHNError: it does not exist, cannot be reached, or is no hypernetwork.
    """
    from ghn import from_pretrained
    from ghn.models import for_classes, widened

    ghn = from_pretrained(source)
    if ghn.config.num_classes != config.num_classes:
        ghn = for_classes(ghn, config.num_classes, seed=seed)
    ghn = ghn.with_flattened(config.flattened).with_shuffled(config.shuffled)
    if ghn.config.decoder == "tiled" and not config.decoder_channels % ghn.config.decoder_channels:
        ghn = widened(ghn, config.decoder_channels)
    found, wanted = ghn.config.model_dump(), config.model_dump()
    if differing := [name for name in found if found[name] != wanted[name]]:
        has, asked = (
            ", ".join(f"{name} = {fields[name]}" for name in differing)
            for fields in (found, wanted)
        )
        raise ConfigError(
            f"train.initial: {source} has {has}, but train.variant and train.ghn ask for {asked};"
            " change train.ghn, or train.initial (null: fresh weights)"
        )
    return ghn.train()


def lineage(initial: GHN | None, images: str) -> list[str]:
    """Names of all data sets that weights have seen after a training on `images`, in order: those
    of `initial` (which may be these weights), of what that one was trained from, and `images`.
    """
    known = {} if initial is None else initial.metadata
    before = known.get("lineage") or [known[name] for name in ("images",) if name in known]
    return list(dict.fromkeys([*before, images]))


def emphasize_distance(ghn: GHN, gain: float) -> None:
    """Multiplies the embeddings of the distance from the input (section A.1) by `gain`, in place.

    Raises:
        ConfigError: the hypernetwork has none, and `gain` is not 1.
    """
    import torch

    if gain == 1:
        return
    if ghn.embedding.input_distance is None:
        raise ConfigError(
            "train.distance_gain: this hypernetwork does not embed distances from the input; leave"
            " it at 1"
        )
    with torch.no_grad():
        ghn.embedding.input_distance.weight *= gain


def content(ghn: GHN) -> str:
    """Digest of the weights: a registry alias or a rewritten file may come to mean others."""
    content = hashlib.sha256()
    for name, tensor in sorted(ghn.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.contiguous().cpu().numpy())
    return content.hexdigest()
