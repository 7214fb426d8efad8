"""The evaluation that was registered with a version, and the comparison of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.registry.lookup import RegistryError
from flows.settings import paths
from flows.tracking.client import client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


METRIC = "accuracy"
"""Mean accuracy over the evaluation architectures, without any training."""

Z = 1.96
"""The difference must exceed so many standard errors: the lower end of its 95% interval is above 0.
"""

MIN_ARCHITECTURES = 8
"""Fewer pairs than this decide nothing."""

Accuracies = Mapping[str, float]
"""By architecture id."""


@dataclass(frozen=True)
class Evaluation:
    """How a version did: accuracies of its predictions and of random initialisation, and on which
    data and seed.
    """

    accuracies: Accuracies
    random: Accuracies
    data: str


@dataclass(frozen=True)
class Comparison:
    """Paired over architectures.

    Attributes:
        architectures: how many were compared.
        challenger: mean accuracy over them.
        champion: likewise, of what it is compared with.
        difference: mean of the differences.
        noise: what the difference must exceed, Z standard errors.
    """

    architectures: int
    challenger: float
    champion: float
    difference: float
    noise: float

    @property
    def better(self) -> bool:
        """Whether the challenger is better by more than the noise."""
        return self.architectures >= MIN_ARCHITECTURES and self.difference > self.noise


def compare(challenger: Accuracies, champion: Accuracies) -> Comparison:
    """Compares two accuracies of each architecture that both have."""
    common = sorted(challenger.keys() & champion.keys())
    a = np.array([challenger[name] for name in common])
    b = np.array([champion[name] for name in common])
    if len(common) < 2:
        return Comparison(
            len(common),
            float(a.mean()) if len(a) else 0.0,
            float(b.mean()) if len(b) else 0.0,
            0.0,
            1.0,
        )
    difference = a - b
    noise = Z * float(difference.std(ddof=1)) / math.sqrt(len(common))
    return Comparison(
        len(common), float(a.mean()), float(b.mean()), float(difference.mean()), noise
    )


def evaluation(version: ModelVersion, mlflow_client: MlflowClient | None = None) -> Evaluation:
    """The evaluation that was registered with a version.

    Raises:
        RegistryError: the version has none.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = (mlflow_client or client()).get_model_version_download_uri(version.name, version.version)
    with TemporaryDirectory() as directory:
        try:
            path = download_artifacts(
                artifact_uri=f"{uri}/artifacts/evaluation.parquet", dst_path=directory
            )
            rows = read_rows(path)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"version {version.version} of {version.name} has no evaluation: {error}"
            ) from error
    good = [row for row in rows if row["error"] is None]
    if not good:
        raise RegistryError(
            f"version {version.version} of {version.name}: no architecture was evaluated without"
            " error"
        )
    return Evaluation(
        accuracies(rows),
        accuracies(rows, "randinit_accuracy"),
        _data(version.tags, max(row["images"] for row in good), good[0]["seed"]),
    )


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of the stage evaluate."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def accuracies(rows: Sequence[Mapping[str, Any]], column: str = METRIC) -> dict[str, float]:
    """By architecture, of the rows without an error."""
    return {row["architecture"]: row[column] for row in rows if row["error"] is None}


def _data(tags: Mapping[str, str], images: int, seed: int) -> str:
    """What two evaluations must share to be compared: images (how many, by which seed) and
    architectures.

    Of DeepNets-1M the splits that were evaluated count: another train split makes no other test.
    """
    whole = f"dvc.{paths.DEEPNETS.as_posix()}"
    hashes = [
        value[:8]
        for key, value in sorted(tags.items())
        if key.startswith("dvc.data/") and key != whole
    ]
    return (
        f"{images} images of {tags.get('data_set')}, {tags.get('image_size')} pixels, seed {seed},"
        f" {' '.join(hashes)}"
    )
