"""What the forms of Prefect's pages offer for a parameter, from the files of this checkout.

A deployment keeps the menus of when it was deployed. The server refuses other values there; a flow
that is called from Python says itself what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import WithJsonSchema

from flows.params import PARAMS_FILE, load_params
from flows.settings.dvcfile import read_stages
from flows.settings.files import profiles
from flows.settings.imports import ROOT
from ghn.errors import ConfigError


def stages(root: Path = ROOT) -> list[str]:
    """The stages of dvc.yaml, and the names of those that are several; none if it cannot be read.

    Errors are left to the flow, which has a log for them.
    """
    try:
        tree = load_params(root / PARAMS_FILE).tree()
        names = list(read_stages(tree, root / "dvc.yaml"))
    except (ConfigError, KeyError):
        return []
    return list(dict.fromkeys(part for name in names for part in (name.split("@")[0], name)))


def _menu(names: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **({"enum": names} if names else {})})


Stage = Annotated[str, _menu(stages())]
Profile = Annotated[str, _menu(profiles(ROOT / "params"))]
