"""Published CIFAR-10 accuracies of DeepNets-1M beside ours (Knyazev et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.report.blocks import Table
from flows.report.evaluation import DEEPNETS, SPLIT_TITLES
from flows.words import plus_minus, spread

IMAGES = "cifar10"
"""The data set whose results these stand beside."""

SPLITS = ("val", *DEEPNETS)
"""Those whose networks have published accuracies."""


def beside_published(
    ours: Mapping[str, Mapping[str, NDArray[np.float64]]], published: Mapping[str, Any]
) -> Table:
    """Ours first, then the published methods.

    Args:
        ours: by row title and split, accuracies of the networks, fractions.
        published: the file cifar10.json.
    """
    shown = [
        split
        for split in SPLITS
        if split != "val" or any("val" in found for found in ours.values())
    ]
    body: list[list[str | None]] = [
        [
            title,
            *(spread(found[split]) if len(found.get(split, ())) else None for split in shown),
        ]
        for title, found in ours.items()
    ]
    body += [
        [f"published: {method}", *(_cell(found[split]) for split in shown)]
        for method, found in published["methods"].items()
    ]
    counts = ", ".join(f"{split} {published['architectures'][split]}" for split in shown)
    caption = (
        f"CIFAR-10, test accuracy, mean ± standard deviation over networks. {published['source']};"
        f" 10,000 test images, networks of the published splits ({counts}); MLP, GHN-1 and GHN-2"
        " without training, RandInit after epochs of SGD on each network"
    )
    return Table(["", *(SPLIT_TITLES.get(split, split) for split in shown)], body, caption)


def _cell(found: Sequence[float]) -> str:
    return plus_minus(found[0] / 100, found[1] / 100)
