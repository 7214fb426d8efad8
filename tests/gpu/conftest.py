"""Helpers of this directory are imported by name; one thread, as the counts are of one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# cuBLAS reads it when it is first used, whichever test that is in.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

for directory in ("tests/gpu", "tests/ghn/train", "benchmarks"):
    sys.path.append(str(Path(__file__).resolve().parents[2] / directory))
