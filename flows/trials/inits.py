"""What the names of initialisations (`flows.settings.inits`) mean to trials."""

from __future__ import annotations

from pathlib import Path

from flows.settings import paths
from flows.settings.inits import BASELINES, hypernetwork_name, selected_file


def is_hypernetwork(init: str) -> bool:
    """Whether `init` predicts parameters (and so gets noise against symmetry)."""
    return init not in BASELINES and selected_file(init) is None


def source(init: str) -> str:
    """Returns what `ghn.from_pretrained` is given for hypernetwork `init`."""
    name = hypernetwork_name(init)
    local = paths.weights(name) if "/" not in name and ":" not in name else Path(name)
    return str(local) if local.exists() else name
