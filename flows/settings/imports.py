"""Which `datasets` is imported: ours, also where Hugging Face's package of that name is installed.

An editable install puts the checkout behind site-packages, where Hugging Face's `datasets` would be
found first. Programs that do not import `flows` are left alone: they get theirs.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

PACKAGES = ("ghn", "datasets", "flows")
"""What is ours in it."""


def prefer_own_datasets() -> None:
    """Makes `datasets.deepnets`, `datasets.images` and `datasets.detection` those of the checkout.

    The checkout goes to the front of `sys.path`, from where worker processes inherit it. In a
    process that has imported another package `datasets`, that one stays as it is and ours are found
    below it as well.

    Raises:
        ModuleNotFoundError: what is imported as `datasets` is no package; the message says where it
            is.
    """
    own = str(ROOT / "datasets")
    loaded = sys.modules.get("datasets")
    if loaded is not None:
        locations = getattr(loaded, "__path__", None)
        if locations is None:
            raise ModuleNotFoundError(
                f"flows needs the package {own}, but {getattr(loaded, '__file__', loaded)} is"
                " imported as `datasets`; rename that file, or import flows before it",
                name="datasets",
            )
        if own not in locations:
            locations.append(own)
        return
    found = importlib.util.find_spec("datasets")
    if found is None or own not in (found.submodule_search_locations or ()):
        sys.path.insert(0, str(ROOT))
