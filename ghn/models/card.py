"""The model card of a hypernetwork, from its configuration and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghn.models.config import GHNConfig

_TRAINED = {
    "variant": "variant",
    "images": "training images",
    "image_size": "side of the images, in pixels",
    "step": "steps",
    "population": "networks",
}
"""Metadata that a card shows, and what it calls them."""


def card_text(config: GHNConfig, metadata: Mapping[str, Any]) -> str:
    """A page of Markdown: what it is, how it is used, what it was trained on, what was measured.

    Args:
        config: of the hypernetwork.
        metadata: of it. `accuracy` maps what was measured (families of networks) to accuracies of
            predicted parameters without training, as fractions.
    """
    rows = [f"| {name} | {metadata[key]} |" for key, name in _TRAINED.items() if key in metadata]
    rows.insert(0, f"| classes | {config.num_classes} |")
    parts = [
        "# A graph hypernetwork (GHN-3)",
        "It predicts the parameters of a neural network from its computational graph, in one"
        " forward pass ([paper](https://arxiv.org/abs/2303.04143)).",
        "```python\nfrom ghn.models import GHN\n\n"
        'hypernetwork = GHN.from_pretrained("user/name")  # this repository\n'
        "model = hypernetwork(model)  # any PyTorch network\n```",
        "## What it was trained on",
        "\n".join(["| | |", "|---|---|", *rows]),
        *_measured(config, metadata),
        "## Configuration",
        f"```json\n{config.to_json()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _measured(config: GHNConfig, metadata: Mapping[str, Any]) -> list[str]:
    accuracy = metadata.get("accuracy")
    if not isinstance(accuracy, Mapping) or not accuracy:
        return []
    lines = [f"| {name} | {value:.1%} |" for name, value in sorted(accuracy.items())]
    return [
        "## Accuracy of predicted parameters without training",
        f"Chance is {1 / config.num_classes:.1%}; families near it are better off with random"
        " parameters.",
        "\n".join(["| networks | accuracy |", "|---|---|", *lines]),
    ]
