"""Helpers of this directory are imported by name; one thread, as the counts are of one."""

from __future__ import annotations

import sys
from pathlib import Path

for directory in ("gpu", "ghn/train"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / directory))
