"""A trained hypernetwork for images with another number of classes."""

from __future__ import annotations

import numpy as np
import torch

from ghn.models.config import GHNConfig
from ghn.models.embedding import channel_steps
from ghn.models.hypernetwork import GHN
from ghn.randomness import seeded

_OF_THE_HEAD = {"classes", "accuracy", "metrics"}
"""Metadata that say nothing of a hypernetwork with other heads."""


def for_classes(ghn: GHN, num_classes: int, *, seed: int = 0) -> GHN:
    """A copy of `ghn` that predicts networks with `num_classes` outputs, to be trained further.

    All weights are those of `ghn` but for the two layers that make class heads and their biases:
    they have a row per class, and are drawn anew. The embedding of channel counts has an entry for
    the number of classes, which takes what `ghn` has learned for its own number, unless layers have
    that many channels, too (1, 3, 8, 64, 128): then it stays theirs. Class heads of 4 to 7 classes
    read the entry of 8, as every layer of so many channels does in the released hypernetworks. The
    metadata stay, but for the names of the classes and what was measured with the old head.

    Args:
        ghn: of any variant.
        num_classes: of the new images, at least 1.
        seed: of the new layers' weights.
    """
    old = ghn.config
    config = GHNConfig.from_dict(old.to_dict() | {"num_classes": num_classes})
    with seeded(seed):
        fresh = GHN(config).to(ghn.device)
    known, found = ghn.state_dict(), fresh.state_dict()
    state = {
        name: known[name] if known.get(name, tensor[:0]).shape == tensor.shape else tensor
        for name, tensor in found.items()
    }
    state["embedding.channel.weight"] = _channels(
        known["embedding.channel.weight"], old.num_classes, num_classes
    )
    fresh.load_state_dict(state)
    fresh.metadata = {key: value for key, value in ghn.metadata.items() if key not in _OF_THE_HEAD}
    return fresh.train(ghn.training)


def _channels(table: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """Rows of the embedding of channel counts, found by the counts that they stand for."""
    before, after = channel_steps(old), channel_steps(new)
    wanted = np.where(np.isin(after, channel_steps()), after, old)
    rows = np.abs(before[None] - wanted[:, None]).argmin(1)
    return table[torch.from_numpy(np.append(rows, len(before)))]
