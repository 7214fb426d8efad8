"""Checkpoints of a run: weights as safetensors, the rest of the state beside them, the last few and
the best kept.

A checkpoint of step 1200 is two files, `step-00001200.safetensors` (a hypernetwork like any other:
it can be loaded, registered, evaluated) and `step-00001200.state` (optimizer, loss scale, counters;
tensors and plain containers, loaded with `weights_only`). Both are written to a temporary name and
renamed, the state last: a checkpoint counts only if its state is there, and the state holds the
digest of the weights that belong to it.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ghn.errors import ConfigError, DamagedFileError
from ghn.files import atomic_path, sha256

SaveWeights = Callable[[Path, Mapping[str, Any]], None]
"""Writes the hypernetwork with metadata to a path."""


@dataclass(frozen=True)
class RunState:
    """All that a run needs, beside the weights, to go on as if it had not stopped.

    Images, graphs, dropout and the learning rate are functions of the step and the seed, so no
    state of a generator or a loader is among it.

    Attributes:
        step: steps done.
        recipe: what the run was started with; a run with another recipe does not resume from here.
        optimizer: state dict.
        scaler: state dict.
        counters: skipped steps, best metric and the like.
    """

    step: int
    recipe: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    counters: dict[str, float]


class Checkpoints:
    """The checkpoints in a directory.

    Args:
        directory: created if need be.
        keep: how many of the latest to keep.
        save_weights: writes the weights.
    """

    def __init__(
        self, directory: str | os.PathLike[str], keep: int, save_weights: SaveWeights
    ) -> None:
        self.directory = Path(directory)
        self.keep = keep
        self._save_weights = save_weights

    @property
    def best(self) -> Path:
        """Weights with the best metric so far."""
        return self.directory / "best.safetensors"

    def save(self, state: RunState) -> Path:
        """Writes a checkpoint and removes old ones; returns the path of the weights."""
        stem = f"step-{state.step:08d}"
        weights = self.directory / f"{stem}.safetensors"
        self._save_weights(weights, {"step": state.step})
        content = {"weights_sha256": sha256(weights), **vars(state)}
        with atomic_path(self.directory / f"{stem}.state") as temporary:
            torch.save(content, temporary)
        for old in self._stems()[: -self.keep]:
            # The state goes first: weights without a state are no checkpoint.
            (self.directory / f"{old}.state").unlink(missing_ok=True)
            (self.directory / f"{old}.safetensors").unlink(missing_ok=True)
        return weights

    def save_best(self, step: int, metrics: Mapping[str, float]) -> Path:
        """Keeps the weights of this step as the best."""
        self._save_weights(self.best, {"step": step, "metrics": dict(metrics)})
        return self.best

    def load(
        self, ghn: nn.Module, recipe: Mapping[str, Any], warn: Callable[[str], None]
    ) -> RunState | None:
        """Restores the weights of the latest checkpoint that is whole into `ghn` and returns its
        state.

        A damaged checkpoint (a disk that lost data) is reported and passed over for the one before
        it.

        Raises:
            ConfigError: the directory holds a run with another recipe; names the differences.
            DamagedFileError: there are checkpoints, but none is whole.
        """
        stems = self._stems()
        for stem in reversed(stems):
            try:
                state, weights = self._read(stem)
            except DamagedFileError as error:
                warn(f"{error}; falling back to the checkpoint before it")
                continue
            saved = json.loads(json.dumps(state.recipe))
            wanted = json.loads(json.dumps(dict(recipe)))
            if saved != wanted:
                keys = sorted(
                    key for key in saved.keys() | wanted.keys() if saved.get(key) != wanted.get(key)
                )
                detail = ", ".join(
                    f"{key} = {saved.get(key)!r} there, {wanted.get(key)!r} here" for key in keys
                )
                raise ConfigError(
                    f"{self.directory} holds a run with other settings ({detail}); "
                    "use another directory, or delete it to start anew"
                )
            ghn.load_state_dict(weights)
            return state
        if stems:
            raise DamagedFileError(
                f"{self.directory}: no checkpoint is whole; delete the directory to start anew"
            )
        return None

    def _stems(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("step-*.state"))

    def _read(self, stem: str) -> tuple[RunState, dict[str, torch.Tensor]]:
        state_path, weights_path = (
            self.directory / f"{stem}.state",
            self.directory / f"{stem}.safetensors",
        )
        try:
            content = torch.load(state_path, map_location="cpu", weights_only=True)
            digest = content.pop("weights_sha256")
            state = RunState(**content)
        except (
            OSError,
            RuntimeError,
            EOFError,
            KeyError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            raise DamagedFileError(
                f"{state_path}: not readable ({type(error).__name__})"
            ) from error
        if not weights_path.is_file() or sha256(weights_path) != digest:
            raise DamagedFileError(
                f"{weights_path}: missing, or not the file that {state_path.name} belongs to"
            )
        try:
            return state, load_file(weights_path)
        except SafetensorError as error:
            raise DamagedFileError(f"{weights_path}: {error}") from error
