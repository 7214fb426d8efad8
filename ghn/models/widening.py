"""A trained hypernetwork with a decoder of more channels."""

from __future__ import annotations

from ghn.errors import ConfigError
from ghn.models.config import GHNConfig
from ghn.models.hypernetwork import GHN


def widened(ghn: GHN, channels: int) -> GHN:
    """`ghn` with a tiled decoder that makes blocks of `channels`, to be trained further.

    Blocks repeat along output and input channels, so one that already holds several repetitions
    predicts the same parameters (up to rounding) and may then learn to tell the repetitions apart.

    Args:
        ghn: of any variant with a tiled decoder.
        channels: a multiple of `ghn.config.decoder_channels`.

    Raises:
        ConfigError: the decoder is low-rank, or `channels` is no multiple.
    """
    old = ghn.config
    times, rest = divmod(channels, old.decoder_channels)
    if old.decoder != "tiled" or rest or not times:
        raise ConfigError(
            f"a {old.decoder} decoder of {old.decoder_channels} channels cannot become one of"
            f" {channels}; only a tiled one can, by a whole number of repetitions"
        )
    if times == 1:
        return ghn
    m = old.decoder_channels
    # of layers with a row for each pair or each one of the channels: (rows, repetitions) by axis
    layers = {"tensors.block": ((m, times), (m, times)), "vectors.out": ((2, 1), (m, times))}
    state = {}
    for name, tensor in ghn.state_dict().items():
        layer = name.rpartition(".")[0]
        if layer in layers:
            rows, repetitions = zip(*layers[layer], strict=True)
            repetitions += (1,) * (tensor.ndim - 1)
            state[name] = tensor.unflatten(0, rows).repeat(repetitions).flatten(0, 1)
        elif name.endswith(".classes.weight"):  # takes a sum over channels
            state[name] = tensor.repeat(1, times) / times
        else:
            state[name] = tensor.clone()
    wider = GHN.empty(GHNConfig.from_dict(old.to_dict() | {"decoder_channels": channels}))
    wider.load_state_dict(state, assign=True)
    wider.to(ghn.device)  # buffers that no state dict has
    wider.metadata = dict(ghn.metadata)
    return wider.train(ghn.training)
