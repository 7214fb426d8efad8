"""Which message passing a configuration asks for."""

from __future__ import annotations

from ghn.models.config import GHNConfig
from ghn.models.message_passing.gated import MLP, GatedGNN
from ghn.models.message_passing.transformer import Transformer


def message_passing(config: GHNConfig) -> Transformer | GatedGNN | MLP:
    """The Transformer of GHN-3, the GatedGNN of GHN-1 and GHN-2, or an MLP that passes none."""
    if config.message_passing == "transformer":
        return Transformer(config)
    if config.message_passing == "gated":
        return GatedGNN(config)
    return MLP(config.hidden, config.hidden)
