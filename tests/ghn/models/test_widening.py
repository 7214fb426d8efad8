"""A trained hypernetwork with a wider decoder predicts what it did before."""

import pytest
import torch

from ghn.architectures import build
from ghn.errors import ConfigError
from ghn.models import GHN, GHNConfig, widened

SMALL = {"hidden": 16, "layers": 1, "decoder_channels": 8, "flattened": "kernels"}


@pytest.mark.parametrize("base", ["zero", "identity"])
@pytest.mark.parametrize("window", ["center", "corner"])
@pytest.mark.parametrize("network", ["resnet18", "alexnet", "vit_b_32"])
def test_it_predicts_the_same(base: str, window: str, network: str) -> None:
    torch.manual_seed(3)
    config = GHNConfig.variant("ghn3-t", 10).to_dict() | SMALL | {"base": base, "window": window}
    ghn = GHN(GHNConfig.from_dict(config)).eval()
    ghn.metadata = {"images": "digits"}
    random = torch.get_rng_state()
    wider = widened(ghn, 24)
    assert torch.equal(torch.get_rng_state(), random)
    mine = {tensor.data_ptr() for tensor in ghn.parameters()}
    assert not mine & {tensor.data_ptr() for tensor in wider.parameters()}
    assert wider.config.decoder_channels == 24
    assert wider.metadata == ghn.metadata
    assert not wider.training
    size = 64 if network == "alexnet" else 32
    states = []
    for one in (ghn, wider):
        torch.manual_seed(5)  # of what is not predicted
        states.append(one(build(network, num_classes=10, image_size=size)).state_dict())
    before, after = states
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [({}, 12), ({}, 4), ({}, 0), ({"decoder": "low-rank", "rank": 4}, 16)],
)
def test_what_cannot_be_repeated_is_refused(changes: dict[str, object], channels: int) -> None:
    config = GHNConfig.variant("ghn3-t", 10).to_dict() | SMALL | {"flattened": "columns"} | changes
    with pytest.raises(ConfigError, match=f"8 channels cannot become one of {channels}"):
        widened(GHN(GHNConfig.from_dict(config)), channels)
