from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from datasets.images import ImageTensors, load


@pytest.fixture(scope="session")
def digits() -> ImageTensors:
    return load("digits", cache=None)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
