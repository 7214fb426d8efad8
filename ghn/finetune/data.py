"""A stratified order of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stratified_order(y_N: Tensor, seed: int) -> Tensor:
    """A random order of indices of which every prefix has the classes in nearly equal proportion to
    the whole.

    Each class's images are shuffled and spread evenly over the interval 0..1; the order is that of
    their places.
    """
    random = np.random.default_rng(seed)
    place_N = np.empty(len(y_N))
    labels_N = y_N.cpu().numpy()
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        place_N[random.permutation(members)] = (np.arange(len(members)) + random.random()) / len(
            members
        )
    return torch.from_numpy(np.argsort(place_N, kind="stable"))
