"""A small store that tests read but never change."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.deepnets import GenerateConfig, generate_split

SMALL = GenerateConfig(
    shard_size=60, splits={"train": {"size": 100}, "test": {"size": 40}, "wide": {"size": 10},
                           "val": {"size": 10},
                           "deep": {"size": 10}, "dense": {"size": 10}, "bnfree": {"size": 10}},
)  # fmt: skip


@pytest.fixture(scope="session")
def small() -> GenerateConfig:
    return SMALL


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("deepnets")
    for split in SMALL.splits:
        generate_split(directory, split, SMALL)
    return directory
