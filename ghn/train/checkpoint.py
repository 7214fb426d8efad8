"""Checkpoints of a run: weights as safetensors, the rest of the state beside them, the last few and
the best kept.

A checkpoint of step 1200 is three files: `step-00001200.safetensors` (a hypernetwork like any
other: it can be loaded, registered, evaluated), `step-00001200.state` (optimizer, loss scale,
counters; tensors and plain containers, loaded with `weights_only`) and `step-00001200.sha256`, the
digests of both, as `sha256sum --check` reads them. All are written to a temporary name and renamed,
the digests last: a checkpoint counts only if they are there, and is used only if they are right.
"""

from __future__ import annotations

import json
import os
import pickle
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghn.errors import ConfigError, DamagedFileError
from ghn.files import atomic_path, read_safetensors, sha256

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
        horizon: `TrainConfig.horizon`.
        optimizer: state dict.
        scaler: state dict.
        counters: skipped steps, best metric and the like.
        trained: the weights in training, where those of the file are their average.
    """

    step: int
    recipe: dict[str, Any]
    horizon: tuple[int, int]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    counters: dict[str, float]
    trained: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the state, and the weights of its file."""

    state: RunState
    weights: dict[str, Tensor]


class Checkpoints:
    """The checkpoints in a directory.

    Args:
        directory: created if need be.
        keep: how many of the latest to keep.
        save_weights: writes the weights.
        milestone: the step whose checkpoint is kept for good, where a constant learning rate begins
            to fall: a longer run goes on from there.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int,
        save_weights: SaveWeights,
        milestone: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.keep = keep
        self.milestone = milestone
        self._save_weights = save_weights

    @property
    def best(self) -> Path:
        """Weights with the best metric so far."""
        return self.directory / "best.safetensors"

    def save(self, state: RunState) -> Path:
        """Writes a checkpoint and removes old ones, and those of later steps, which the run has
        passed over; returns the path of the weights.
        """
        weights, rest, digests = self._files(_stem(state.step))
        self._save_weights(weights, {"step": state.step})
        # To an open file: of a failed write to a path PyTorch does not say why it failed.
        with atomic_path(rest) as temporary, temporary.open("wb") as file:
            torch.save(dict(vars(state)), file)
        with atomic_path(digests) as temporary:
            temporary.write_text(
                "".join(f"{sha256(path)}  {path.name}\n" for path in (weights, rest))
            )
        stems = self._stems()
        n_so_far = bisect_right(stems, _stem(state.step))
        old = [stem for stem in stems[:n_so_far][: -self.keep] if stem != _stem(self.milestone)]
        for stem in stems[n_so_far:] + old:
            # The digests go first: without them the others are no checkpoint.
            for path in reversed(self._files(stem)):
                path.unlink(missing_ok=True)
        return weights

    def save_best(self, step: int, metrics: Mapping[str, float]) -> Path:
        """Keeps the weights of this step as the best."""
        self._save_weights(self.best, {"step": step, "metrics": dict(metrics)})
        return self.best

    def load(
        self,
        recipe: Mapping[str, Any],
        horizon: tuple[int, int],
        warn: Callable[[str], None],
    ) -> Checkpoint | None:
        """The latest checkpoint that is whole, or None if there is no run yet.

        A damaged checkpoint (a disk that lost data) is reported and passed over for the one before
        it, and so is one whose learning rate has already fallen towards another end.

        Raises:
            ConfigError: the directory holds a run with another recipe (names the differences), or
                one that cannot end where this one does.
            DamagedFileError: there are checkpoints, but none is whole.
        """
        stems = self._stems()
        passed = []
        for stem in reversed(stems):
            try:
                found = self._read(stem)
            except DamagedFileError as error:
                warn(f"{error}; falling back to the checkpoint before it")
                continue
            self._compare(found.state.recipe, recipe)
            if _leads_to(found.state, horizon):
                return found
            passed.append(found.state)
        if passed:
            raise ConfigError(
                f"{self.directory} holds a run whose learning rate has fallen, for an end at step"
                f" {passed[-1].horizon[0]}, or that is beyond step {horizon[1]}; set train.steps"
                " and train.decay_steps to fit, or delete it to start anew"
            )
        if stems:
            raise DamagedFileError(
                f"{self.directory}: no checkpoint is whole; delete the directory to start anew"
            )
        return None

    def _compare(self, saved: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        saved, wanted = json.loads(json.dumps(saved)), json.loads(json.dumps(dict(recipe)))
        if saved == wanted:
            return
        detail = ", ".join(
            f"{key} = {saved.get(key)!r} there, {wanted.get(key)!r} here"
            for key in sorted(saved.keys() | wanted.keys())
            if saved.get(key) != wanted.get(key)
        )
        raise ConfigError(
            f"{self.directory} holds a run with other settings ({detail}); "
            "use another directory, or delete it to start anew"
        )

    def _stems(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("step-*.sha256"))

    def _files(self, stem: str) -> tuple[Path, Path, Path]:
        weights, rest, digests = (
            self.directory / f"{stem}.{kind}" for kind in ("safetensors", "state", "sha256")
        )
        return weights, rest, digests

    def _read(self, stem: str) -> Checkpoint:
        weights, rest, digests = self._files(stem)
        try:
            lines = digests.read_text(encoding="utf-8", errors="replace").splitlines()
            for path, line in zip((weights, rest), lines, strict=True):
                if line != f"{sha256(path)}  {path.name}":
                    raise DamagedFileError(f"{path}: not the file whose digest {digests.name} has")
            state = RunState(**torch.load(rest, map_location="cpu", weights_only=True))
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
                f"{self.directory / stem}.*: not readable ({type(error).__name__})"
            ) from error
        return Checkpoint(state, read_safetensors(weights)[0])


def _stem(step: int) -> str:
    return f"step-{step:08d}"


def _leads_to(state: RunState, horizon: tuple[int, int]) -> bool:
    """Whether the learning rate up to the state was the one of a run with this horizon."""
    steps, known_from = horizon
    if tuple(state.horizon) == horizon:
        return state.step <= steps
    return state.step <= min(state.horizon[1], known_from)
