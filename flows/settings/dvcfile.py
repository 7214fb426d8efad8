"""dvc.yaml read as data: what a stage depends on and writes, without starting DVC (which takes a
second to import).

The stages' MLflow runs and the Prefect flow take their names, parameters, inputs and outputs from
here, so that dvc.yaml stays the only list of stages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.settings.files import read_yaml
from flows.settings.imports import PACKAGES

_PLACEHOLDER = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Declaration:
    """A stage of dvc.yaml with its placeholders filled in.

    Attributes:
        name: `train`, or `generate@test` for one of several.
        cmd: the command.
        params: dotted names in params.yaml that it depends on.
        inputs: data dependencies.
        code: code dependencies.
        outputs: outputs, metrics and plots.
        uncached: those of them that DVC's cache does not have (`cache: false`), small ones that git
            keeps.
    """

    name: str
    cmd: str
    params: tuple[str, ...]
    inputs: tuple[str, ...]
    code: tuple[str, ...]
    outputs: tuple[str, ...]
    uncached: tuple[str, ...] = ()

    def used_params(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that the stage depends on, by dotted name."""
        return {name: _look_up(tree, name) for name in self.params}


def read_stages(tree: Mapping[str, Any], path: str | Path = "dvc.yaml") -> dict[str, Declaration]:
    """All stages by name, in the order of the file.

    Args:
        tree: params.yaml, for the placeholders.
        path: the file.

    Raises:
        ConfigError: the file is absent or not YAML.
        KeyError: a placeholder is not in `tree`.
    """
    stages: dict[str, Declaration] = {}
    for name, body in read_yaml(path)["stages"].items():
        if "foreach" in body:
            items = body["foreach"]
            if isinstance(items, str):
                items = _look_up(tree, _PLACEHOLDER.fullmatch(items)[1])  # type: ignore[index]
            keys = list(items)
            for key in keys:
                value = items[key] if isinstance(items, Mapping) else key
                stages[f"{name}@{key}"] = _declare(
                    f"{name}@{key}", body["do"], {**tree, "item": value, "key": key}
                )
        else:
            stages[name] = _declare(name, body, tree)
    return stages


def _declare(name: str, body: Mapping[str, Any], tree: Mapping[str, Any]) -> Declaration:
    def fill(text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: str(_look_up(tree, match[1].strip())), text)

    def options(key: str) -> dict[str, Mapping[str, Any]]:
        # An entry is a path, or a mapping from the path to its options.
        pairs = (
            (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
            for entry in body.get(key, [])
        )
        return {fill(path): given or {} for path, given in pairs}

    def names(key: str) -> list[str]:
        return list(options(key))

    deps = names("deps")
    code = tuple(dep for dep in deps if Path(dep).parts[0] in PACKAGES)
    outputs = options("outs") | options("metrics") | options("plots")
    command = body["cmd"]
    return Declaration(
        name=name,
        cmd=fill(command if isinstance(command, str) else " && ".join(command)),
        params=tuple(names("params")),
        inputs=tuple(dep for dep in deps if dep not in code),
        code=code,
        outputs=tuple(outputs),
        uncached=tuple(path for path, given in outputs.items() if not given.get("cache", True)),
    )


def _look_up(tree: Mapping[str, Any], dotted: str) -> Any:
    value: Any = tree
    for part in dotted.split("."):
        value = value[part]
    return value
