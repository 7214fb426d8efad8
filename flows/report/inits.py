"""How the report names initialisations, in which order and colour they stand, and which of them
have seen the images before.
"""

from __future__ import annotations

from flows.rows.schema import Row
from flows.trials.inits import BASELINES, RANDOM

_COLOURS = {"ghn": 0, RANDOM: 1, "orthogonal": 2}
_NAMES = {"ghn": "predicted", RANDOM: "random"}


def init_order(init: str) -> int:
    """Where an initialisation stands among others: predicted parameters first."""
    return _COLOURS.get(init, 3 if init in BASELINES else 0)


def init_name(init: str) -> str:
    """What the page calls an initialisation."""
    return _NAMES.get(init, "predicted" if init_order(init) == 0 else init)


def seen_before(row: Row) -> bool:
    """Whether the images of a transfer are among those that the hypernetwork was trained on."""
    return row["images"] in (row.get("lineage") or ())
