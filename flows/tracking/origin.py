"""What a run says about itself: where it comes from, and its parameters, as MLflow takes them."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flows.rows.provenance import revision

PARENT_VARIABLE = "GHN_PARENT_RUN_ID"
"""In the environment: the id of the run that those of stages hang below."""

HOLD_VARIABLE = "GHN_HOLD_PROMOTION"
"""In the environment, not empty: a registered version waits for an approval, however good it is
(`flows.registry.approval`).
"""

_PARAM_LIMIT = 6000  # characters; MLflow refuses longer values


def origin(source: str) -> dict[str, str]:
    """Tags that say what ran, of which revision and for whom; those of MLflow's own names are on
    its pages.
    """
    commit = revision()
    tags = {"git_revision": commit, "mlflow.source.name": source, "mlflow.source.type": "LOCAL"}
    if commit != "unknown":
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    with suppress(OSError, KeyError):  # in a container for a user without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def as_params(tree: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of a run: flattened, as text, and cut where MLflow would refuse them."""
    return {key: str(value)[:_PARAM_LIMIT] for key, value in flatten(tree).items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
