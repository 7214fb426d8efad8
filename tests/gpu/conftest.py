"""Helpers of this directory are imported by name; one thread, as the counts are of one."""

from __future__ import annotations

import sys
from pathlib import Path

for directory in ("tests/gpu", "tests/ghn/train", "benchmarks"):
    sys.path.append(str(Path(__file__).resolve().parents[2] / directory))
