"""The evaluation that was registered with a version: which network is right on which image.

The images of an evaluation have two purposes, and no image has both: those at even places of its
order decide which version is the champion, those at odd places say how good a version is (the order
is drawn by `base.seed`, so both are random halves). A number that helped to choose would flatter
what it chose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.registry.comparison import Bools, Comparison, compare
from flows.registry.lookup import RegistryError
from flows.rows.answers import matrix
from flows.rows.schema import read_rows, sound
from flows.settings import paths
from flows.tracking.client import client
from ghn.errors import DamagedFileError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVALUATION_RUN = "evaluation.run"
"""Tag of a version whose weights were evaluated anew: the run that has the evaluation."""

TORCHVISION = "torchvision"
"""The split of the networks that people know."""


@dataclass(frozen=True)
class Evaluation:
    """How a version did.

    Attributes:
        architectures: names (A,), sorted.
        splits: of each.
        seen: (A, I), whether an architecture was measured on an image of the evaluation's order;
            a row of an architecture that failed is False.
        correct: (A, I), whether the network with predicted parameters was right.
        random: (A, I), likewise of the network with random parameters.
        conditions: what another evaluation must share with this one to be compared with it: images,
            seed, batch size and so on, and the DVC hashes of the architectures.
    """

    architectures: tuple[str, ...]
    splits: NDArray[np.str_]
    seen: Bools
    correct: Bools
    random: Bools
    conditions: Mapping[str, Any]

    @property
    def failed(self) -> int:
        """How many architectures ended with an error."""
        return int((~self.seen.any(axis=1)).sum())

    def against(self, other: Evaluation | None, half: bool = True) -> dict[str, Comparison]:
        """Compared with another evaluation, or with random parameters: of all architectures, and
        of those of torchvision.

        Args:
            other: of the same architectures under the same conditions.
            half: on the images that decide; False for all of them.
        """
        other_correct = self.random if other is None else other.correct
        seen = self.seen if other is None else self.seen & other.seen
        if half:
            seen = seen & deciding(seen.shape[1])
        rows = {"all": np.ones(len(seen), bool), TORCHVISION: self.splits == TORCHVISION}
        return {
            name: compare(self.correct[row], other_correct[row], seen[row])
            for name, row in rows.items()
        }

    def reported(self) -> dict[str, float]:
        """Mean accuracy of each split, and of all of DeepNets-1M, on the images that do not
        decide.
        """
        seen = self.seen & ~deciding(self.seen.shape[1])
        count = seen.sum(axis=1)
        accuracy = (self.correct & seen).sum(axis=1) / np.maximum(count, 1)
        groups = {name: self.splits == name for name in sorted(set(self.splits.tolist()))}
        groups["deepnets"] = self.splits != TORCHVISION
        return {
            name: round(float(accuracy[used].mean()), 5)
            for name, row in groups.items()
            if (used := row & (count > 0)).any()
        }


def deciding(images: int) -> Bools:
    """Which of so many images, in the order of the evaluation, decide on promotion."""
    return np.asarray(np.arange(images) % 2 == 0)


def read_evaluation(path: str | Path, hashes: Mapping[str, str] | None = None) -> Evaluation:
    """The evaluation in a file of the stage evaluate.

    Args:
        path: the file.
        hashes: DVC hashes of what was evaluated, by path; they become conditions.

    Raises:
        RegistryError: no architecture was measured, or the file is of a time before answers per
            image were kept.
        DamagedFileError: the file cannot be read.
    """
    rows = sorted(read_rows(path), key=lambda row: str(row["architecture"]))
    good = sound(rows)
    if not good:
        raise RegistryError("no architecture was evaluated without error")
    if any(row.get("correct") is None or row.get("settings") is None for row in good):
        raise RegistryError(
            "the evaluation does not say which images were recognised; `dvc repro evaluate"
            " register` makes one that does"
        )
    if len(settings := {row["settings"] for row in good}) > 1:
        raise DamagedFileError(f"{path}: rows of different settings: {' and '.join(settings)}")
    return Evaluation(
        architectures=tuple(row["architecture"] for row in rows),
        splits=np.array([row["split"] for row in rows]),
        seen=matrix(rows, None),
        correct=matrix(rows, "correct"),
        random=matrix(rows, "randinit_correct"),
        conditions={**json.loads(settings.pop()), **(hashes or {})},
    )


def evaluation_of(version: ModelVersion, mlflow_client: MlflowClient | None = None) -> Evaluation:
    """The evaluation that was registered with a version.

    Raises:
        RegistryError: the version has none.
    """
    from mlflow.exceptions import MlflowException

    run = version.tags.get(EVALUATION_RUN) or version.run_id or ""
    # Of DeepNets-1M the splits that were evaluated count: another train split makes no other test.
    whole = f"dvc.{paths.DEEPNETS.as_posix()}"
    hashes = {
        key: value
        for key, value in version.tags.items()
        if key.startswith(f"{whole}/") or key in ("data_set", "image_size")
    }
    with TemporaryDirectory() as directory:
        try:
            path = (mlflow_client or client(create=False)).download_artifacts(
                run, f"model/artifacts/{paths.EVALUATION.name}", directory
            )
            return read_evaluation(path, hashes)
        except (MlflowException, OSError, DamagedFileError, RegistryError) as error:
            raise RegistryError(
                f"version {version.version} of {version.name} has no evaluation to compare:"
                f" {error}; `ghn registry promote --force` promotes without"
            ) from error
