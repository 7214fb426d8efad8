"""What a training left for the report, damaged in any bit, is named and never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flows.stages.report import read_curve, read_steps
from ghn.errors import DamagedFileError

CURVE = '[\n  {\n    "step": 4,\n    "val_mean": 0.09375,\n    "val_best": 0.09375\n  }\n]\n'
STEPS = "step,loss,cross_entropy,accuracy,gradient_norm,lr\n1,2.3,2.2,0.0625,0.4,1e-05\n"


@pytest.mark.parametrize(("read", "text"), [(read_curve, CURVE), (read_steps, STEPS)])
def test_any_bit(tmp_path: Path, read: Callable[[Path], Any], text: str) -> None:
    path = tmp_path / "file"
    named = 0
    for place in range(len(text)):
        for bit in range(8):
            content = bytearray(text.encode())
            content[place] ^= 1 << bit
            path.write_bytes(content)
            with suppress(DamagedFileError):
                read(path)
                continue
            named += 1
    assert named > len(text)


def test_a_curve_of_torchvision_networks_alone_is_none_of_unseen_ones(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text('[{"step": 500, "resnet18": 0.4}]')
    assert read_curve(path) == []
