"""Hypothesis strategies over the search space."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import strategies as st

from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.rules import PUBLISHED
from datasets.deepnets.space.sampling import draw
from datasets.deepnets.space.table import decode_row
from datasets.deepnets.space.wiring import live
from ghn.errors import InvalidGraphError


@cache
def drawn(split: str, seed: int) -> tuple[Architecture, ...]:
    """Connected architectures of a split."""
    rules = PUBLISHED[split]
    table = draw(rules, 200, np.random.default_rng(seed)).table
    found = []
    for row in table.encode():
        architecture = decode_row(row.tobytes())
        try:
            live(architecture)
        except InvalidGraphError:
            continue
        found.append(architecture)
    return tuple(found)


def architectures(splits: tuple[str, ...] = tuple(PUBLISHED)) -> st.SearchStrategy[Architecture]:
    """Architectures drawn by the rules of any of `splits`."""
    return st.builds(
        lambda split, seed, index: drawn(split, seed)[index % len(drawn(split, seed))],
        st.sampled_from(splits), st.integers(0, 3), st.integers(0, 199),
    )  # fmt: skip
