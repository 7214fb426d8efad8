"""From a name to an initialised network: a hypernetwork's prediction or one of the baselines."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from flows.settings import paths
from ghn.baselines import GradInitConfig, MetaInitConfig, fixup, gradinit, metainit, orthogonal
from ghn.errors import ConfigError
from ghn.finetune import break_symmetry, track_running_statistics
from ghn.images import Images

if TYPE_CHECKING:
    from ghn.graph import Graph
    from ghn.models import GHN

BASELINES = ("randinit", "orthogonal", "gradinit", "metainit", "fixup")
"""Every other name is a hypernetwork: a directory of models/, a file, a released name or a models:/
URI.
"""


def is_hypernetwork(init: str) -> bool:
    """Whether `init` predicts parameters (and so gets noise against symmetry)."""
    return init not in BASELINES


def source(init: str) -> str:
    """Returns what `ghn.from_pretrained` is given for hypernetwork `init`."""
    local = paths.weights(init) if "/" not in init and ":" not in init else Path(init)
    return str(local) if local.exists() else init


def hypernetwork(location: str) -> GHN:
    """A hypernetwork in evaluation mode; once per process, and again if its file changed."""
    path = Path(location)
    status = path.stat() if path.is_file() else None
    return _hypernetwork(location, status and (status.st_mtime_ns, status.st_size))


def forget_hypernetworks() -> None:
    """Drops those that were loaded: names of a registry are looked up anew."""
    _hypernetwork.cache_clear()


@lru_cache(maxsize=4)
def _hypernetwork(location: str, _version: tuple[int, int] | None) -> GHN:
    from ghn import from_pretrained

    return from_pretrained(location).eval()


def initialise(
    model: nn.Module,
    graph: Graph,
    init: str,
    *,
    seed: int,
    train: Images | None,
    image_shape: tuple[int, int, int],
    num_classes: int,
    beta: float,
    gradinit_config: GradInitConfig,
    metainit_config: MetaInitConfig,
) -> float:
    """Initialises `model`, freshly built (so with its standard random initialisation), in place.

    Args:
        init: a name of `BASELINES` or a hypernetwork.
        seed: of all random draws.
        train: for GradInit, which looks at data.
        beta: noise added to predicted parameters.

    Returns:
        seconds, without those of loading a hypernetwork.
    """
    if is_hypernetwork(init):
        ghn = hypernetwork(source(init))
        started = time.perf_counter()
        with torch.no_grad():
            ghn(model, graph)
        break_symmetry(model, beta, seed=seed)
        return time.perf_counter() - started
    started = time.perf_counter()
    match init:
        case "orthogonal":
            orthogonal(model, seed=seed)
        case "gradinit":
            if train is None:
                raise ConfigError("GradInit needs images of the task; it is not offered here")
            gradinit(model, train, gradinit_config, seed=seed)
        case "metainit":
            track_running_statistics(
                model
            )  # batch norm must be an affine map, with all its derivatives
            metainit(model, image_shape, num_classes, metainit_config, seed=seed)
        case "fixup":
            fixup(model, seed=seed)
    return time.perf_counter() - started
