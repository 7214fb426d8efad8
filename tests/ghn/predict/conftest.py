"""A hypernetwork with random weights: what is predicted matters less than where it goes."""

from __future__ import annotations

import pytest
import torch

from ghn import GHN, GHNConfig


@pytest.fixture(scope="session")
def hypernetwork() -> GHN:
    torch.manual_seed(0)
    config = GHNConfig(
        hidden=16, heads=4, layers=2, num_classes=10, decoder_channels=16, decoder_kernel=11
    )
    return GHN(config).eval()
