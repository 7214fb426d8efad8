"""What the stages of dvc.yaml write, as assets of Prefect, with what each was made from.

Prefect keeps an event for every asset that a stage has written anew: its DVC hash, and as related
assets the data that dvc.yaml says the stage reads. A stage that had nothing to do has written
nothing, so there is no event either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext

from flows.orchestration.order import touched
from flows.settings.dvcfile import Declaration
from flows.settings.files import read_yaml
from ghn.errors import ConfigError

TOOL = "dvc"
"""What made the assets, as Prefect shows it."""

_KEY_LENGTH = 512  # Prefect's own limit
_NOT_IN_KEYS = re.compile(r"[^\w./~:@+=-]", re.ASCII)


def asset(path: str, tree: str) -> Asset:
    """The asset of a file or directory of a tree; its key is `dvc://<tree>/<path>`."""
    key = _NOT_IN_KEYS.sub("-", f"dvc://{tree}/{path.lstrip('/')}")[:_KEY_LENGTH]
    return Asset(key=key, properties=AssetProperties(name=path))


def lineage(
    stages: Mapping[str, Declaration], stage: str, tree: str
) -> tuple[list[Asset], list[Asset]]:
    """The assets that a stage writes, and those that it reads; code is none.

    A dependency on a directory in which stages write is one on each of their outputs there, and a
    dependency on a file of an output directory is one on that directory.

    Args:
        stages: of dvc.yaml.
        stage: name of one.
        tree: names the tree in the keys.
    """
    outputs = [Path(out) for name in stages if name != stage for out in stages[name].outputs]

    inputs = [Path(dep) for dep in stages[stage].inputs]
    read = {path for dep in inputs for path in touched(dep, outputs) or [dep]}
    return (
        [asset(path, tree) for path in stages[stage].outputs],
        [asset(path.as_posix(), tree) for path in sorted(read)],
    )


def begin() -> None:
    """Restricts what the present task reads to what dvc.yaml says.

    Prefect would add everything that the tasks before it have made, such as the learning curve to
    what an evaluation was made from.
    """
    if (context := AssetContext.get()) is not None:
        context.upstream_assets.clear()


def note(stage: str, directory: Path, written: bool) -> None:
    """Gives the assets of the present task their DVC hashes, or withdraws them.

    Args:
        stage: that has run.
        directory: of dvc.lock.
        written: whether it wrote its outputs.
    """
    if (context := AssetContext.get()) is None:
        return
    if not written:
        context.downstream_assets.clear()
        return
    recorded = _recorded(stage, directory)
    for made in context.downstream_assets:
        path = str(made.properties.name) if made.properties else ""
        if metadata := recorded.get(path):
            context.add_asset_metadata(made.key, metadata)


def _recorded(stage: str, directory: Path) -> dict[str, dict[str, str | int]]:
    """What dvc.lock says of the outputs of a stage: hash, size and number of files."""
    try:
        stages = read_yaml(directory / "dvc.lock").get("stages") or {}
    except ConfigError:  # the stage is worth more than what is noted of it
        return {}
    return {
        out["path"]: {key: out[key] for key in ("md5", "size", "nfiles") if key in out}
        for out in stages.get(stage, {}).get("outs", [])
    }
