"""Graphs are data: a program that only reads them does not wait for PyTorch."""

from __future__ import annotations

import subprocess
import sys


def test_graphs_are_imported_without_torch() -> None:
    code = (
        "import sys, ghn.graph, ghn.graph.drawing\n"
        "assert ghn.graph.Graph\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'torchvision')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
