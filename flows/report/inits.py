"""How the report names initialisations, in which order and colour they stand, and which of them
have seen the images before.
"""

from __future__ import annotations

from collections.abc import Iterable

from flows.rows.schema import Row
from flows.settings.inits import RANDOM
from flows.trials.inits import is_hypernetwork

_PLACES = {RANDOM: 1, "orthogonal": 2}


def in_order(inits: Iterable[str], ghn: str) -> list[str]:
    """Initialisations as the page lists them, each once: those of hypernetworks first, and of these
    `ghn`, the one that the page is about.
    """

    def place(init: str) -> tuple[bool, int, str]:
        return init != ghn, _PLACES.get(init, 0 if is_hypernetwork(init) else 3), init

    return sorted(set(inits), key=place)


def init_name(init: str, ghn: str) -> str:
    """What the page calls an initialisation; "predicted" is by `ghn`, the one that the page is
    about.
    """
    return {ghn: "predicted", RANDOM: "random"}.get(init, init)


def seen_before(row: Row) -> bool:
    """Whether the images of a transfer are among those that the hypernetwork was trained on."""
    return row["images"] in (row.get("lineage") or ())
