"""How initialisations are named, in params.yaml and in the profiles of experiments.

- a name of `BASELINES`;
- a hypernetwork: a directory of models/, a file, a released name or a models:/ URI;
- `<hypernetwork>+orth<n>`: its prediction, orthogonalised from the n-th layer on (GHN-orth);
- `selection=<file>`: what fits of a larger trained network, a state dict; `selection` alone: of the
  one that the entry names (`larger`), which is trained first.
"""

from __future__ import annotations

import re

RANDOM = "randinit"
"""What networks are built with, against which predicted parameters are held."""

SELECTION = "selection"
"""The start that part of a larger trained network makes."""

BASELINES = (RANDOM, "orthogonal", "gradinit", "nio", "metainit", "fixup", SELECTION)

_FILE = f"{SELECTION}="
_ORTH = re.compile(r"(?P<name>.+)\+orth(?P<layer>\d+)")


def hypernetwork_name(init: str) -> str:
    """The hypernetwork of `init`, without what is done to its predictions."""
    found = _ORTH.fullmatch(init)
    return found["name"] if found else init


def orthogonal_from(init: str) -> int | None:
    """The layer, from 1, from which on predictions are orthogonalised; None: they stay."""
    found = _ORTH.fullmatch(init)
    return int(found["layer"]) if found else None


def selected_file(init: str) -> str | None:
    """The state dict that weights are selected from, if `init` does so."""
    return init.removeprefix(_FILE) if init.startswith(_FILE) else None
