"""The reference implementation, beside ours on the same networks, if its checkouts are given."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from setting import Setting, Size, say, timed
from torch import Tensor

from datasets.deepnets.networks.batch import Networks
from ghn.models import GHNConfig
from ghn.train.step import MetaBatch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from step_contenders import Once, Prepare, Sample, reference


def compared(setting: Setting, size: Size, config: GHNConfig) -> Prepare | None:
    """The reference implementation, if its checkouts are given and it can be imported."""
    if not setting.reference:
        return None
    try:
        arguments = (config.hidden, False, config.decoder_kernel, size.classes)
        return reference(setting.reference, *arguments, str(setting.device))
    except Exception as error:  # of another project, with other requirements
        say(reference=f"left out: {type(error).__name__}: {error}")
        return None


def timed_reference(
    prepare: Prepare, batch: MetaBatch, x_BCHW: Tensor, y_B: Tensor, amp: str
) -> float | None:
    """Seconds of a step of the reference through the same networks; None if it fails."""
    networks = batch.networks
    assert isinstance(networks, Networks)
    samples = [
        Sample(architecture, scaling.channels, scaling.fc_dim or 256)
        for architecture, scaling in zip(networks.architectures, networks.scalings, strict=True)
    ]
    device = x_BCHW.device
    try:
        made = prepare(samples, x_BCHW.contiguous(), y_B)
        step = made.make() if isinstance(made, Once) else made
        with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16"):
            return timed(step, device)
    except Exception as error:
        say(reference=f"failed: {type(error).__name__}: {str(error)[:300]}")
        return None
