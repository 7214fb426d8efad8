"""From a name to an initialised network: a hypernetwork's prediction or one of the baselines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flows.settings.inits import orthogonal_from, selected_file
from flows.trials.inits import is_hypernetwork, source
from ghn.baselines import (
    GradInitConfig,
    MetaInitConfig,
    NIOConfig,
    fixup,
    gradinit,
    metainit,
    nio,
    orthogonal,
    orthogonalise,
    read_state_dict,
    weight_selection,
)
from ghn.errors import ConfigError
from ghn.files import file_stamp
from ghn.finetune import track_running_statistics
from ghn.images import Images
from ghn.init import init_

if TYPE_CHECKING:
    from ghn.graph import Graph
    from ghn.models import GHN


def hypernetwork(location: str) -> GHN:
    """A hypernetwork in evaluation mode; once per process, and again if its file changed."""
    path = Path(location)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return _hypernetwork(location, tuple(file_stamp(file) for file in files if file.is_file()))


def forget_hypernetworks() -> None:
    """Drops those that were loaded: names of a registry are looked up anew."""
    _hypernetwork.cache_clear()


@lru_cache(maxsize=4)
def _hypernetwork(location: str, _stamps: tuple[tuple[int, ...], ...]) -> GHN:
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
    nio_config: NIOConfig,
    larger: nn.Module | None = None,
) -> float:
    """Initialises `model`, freshly built (so with its standard random initialisation), in place.

    Args:
        init: a name as `flows.settings.inits` has them.
        seed: of all random draws.
        train: for GradInit and NIO, which look at data.
        beta: noise added to predicted parameters.
        larger: for `selection`: the trained network whose weights are taken.

    Returns:
        seconds, without those of loading a hypernetwork.
    """
    if is_hypernetwork(init):
        ghn = hypernetwork(source(init))
        started = time.perf_counter()
        init_(model, ghn, graph=graph, noise=beta, seed=seed)
        if (layer := orthogonal_from(init)) is not None:
            orthogonalise(model, from_layer=layer)
        return time.perf_counter() - started
    started = time.perf_counter()
    if (file := selected_file(init)) is not None:
        _select(model, read_state_dict(file))
    match init:
        case "orthogonal":
            orthogonal(model, seed=seed)
        case "selection":
            if larger is None:
                raise ConfigError(f"{init} needs a larger trained network; it is not offered here")
            _select(model, larger.state_dict())
        case "gradinit" | "nio":
            if train is None:
                raise ConfigError(f"{init} needs images of the task; it is not offered here")
            if init == "gradinit":
                gradinit(model, train, gradinit_config, seed=seed)
            else:
                nio(model, train, nio_config, seed=seed)
        case "metainit":
            # batch norm must be an affine map, with all its derivatives
            track_running_statistics(model)
            metainit(model, image_shape, num_classes, metainit_config, seed=seed)
        case "fixup":
            fixup(model, seed=seed)
    return time.perf_counter() - started


def _select(model: nn.Module, larger: Mapping[str, Tensor]) -> None:
    """Selects weights, and leaves the running statistics of batch norms to be estimated as those of
    every other initialisation: of part of the channels they are others.
    """
    weight_selection(model, larger)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
