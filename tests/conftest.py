"""Shared fixtures: where the golden files and the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several (-n): a core each, theirs and their tests'
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _directory(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} does not exist; set {variable} to the directory that holds it")
    return path


@pytest.fixture(scope="session")
def golden_root() -> Path:
    """Reference outputs that parity tests compare with."""
    return _directory("GHN_GOLDEN_ROOT", ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images: CIFAR-10, an ImageNet sample, Penn-Fudan."""
    return _directory("GHN_DATA_ROOT", ROOT.parent / "shared" / "data")
