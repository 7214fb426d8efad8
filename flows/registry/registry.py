"""The MLflow registry: look-ups, comparison, promotion to @champion, roll-back.

A version becomes @champion only if it is better than the present one by more than the noise, paired
over architectures: both were evaluated on the same architectures with the same images, so the
difference is taken per architecture, and its mean must exceed `Z` standard errors of that mean. The
first champion is compared with random initialisation in the same way. Decision, both numbers and
reason are tags of the version; the version before is a tag too, so roll-back needs no memory of
ours.
"""

from __future__ import annotations

import getpass
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.orchestration.events import champion_changed
from flows.settings import paths
from flows.tracking.client import client
from ghn.errors import GHNError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
METRIC = "accuracy"
"""Mean accuracy over the evaluation architectures, without any training."""

Z = 1.96
"""The difference must exceed so many standard errors: the lower end of its 95% interval is above 0.
"""

MIN_ARCHITECTURES = 8
"""Fewer pairs than this decide nothing."""

Accuracies = Mapping[str, float]
"""By architecture id."""


class RegistryError(GHNError):
    """A model, version or alias does not exist, or cannot be compared."""


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


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, and why; `tags()` is how the registry remembers it."""

    promoted: bool
    version: str
    against: str
    comparison: Comparison | None
    reason: str

    def tags(self) -> dict[str, str]:
        """As tags of the version."""
        tags = {
            "promotion.decision": "promoted" if self.promoted else "kept as challenger",
            "promotion.against": self.against,
            "promotion.reason": self.reason,
            "promotion.metric": f"mean {METRIC}, paired over architectures",
            "promotion.time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if (c := self.comparison) is not None:
            tags |= {
                "promotion.challenger": f"{c.challenger:.5f}",
                "promotion.champion": f"{c.champion:.5f}",
                "promotion.difference": f"{c.difference:+.5f}",
                "promotion.noise": f"{c.noise:.5f}",
                "promotion.architectures": str(c.architectures),
            }
        return tags


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


def versions(
    name: str, where: Mapping[str, str] | None = None, mlflow_client: MlflowClient | None = None
) -> list[ModelVersion]:
    """Versions of registered model `name`, newest first, whose tags have the values `where`.

    A key that is no tag's whole name matches tags that end with it (`ghn.safetensors` finds
    `dvc.models/ghn3/ ghn.safetensors`), and a value may be the first 8 characters or more of a DVC
    hash.
    """
    mlflow_client = mlflow_client or client()
    found = list(mlflow_client.search_model_versions(f"name = '{name}'", max_results=10_000))
    found = [
        v for v in found if all(_has(v.tags, key, value) for key, value in (where or {}).items())
    ]
    return sorted(found, key=lambda v: int(v.version), reverse=True)


def _has(tags: Mapping[str, str], key: str, value: str) -> bool:
    for tag, content in tags.items():
        named = tag == key or tag.endswith(f".{key}") or tag.endswith(f"/{key}")
        if named and (
            content == value
            or (len(value) >= 8 and tag.startswith("dvc.") and content.startswith(value))
        ):
            return True
    return False


def by_hash(name: str, md5: str) -> list[ModelVersion]:
    """Versions with a DVC hash among their tags that begins with `md5` (at least 8 characters)."""
    if len(md5) < 8:
        raise RegistryError(f"hash {md5!r}: at least 8 characters")
    return [
        v
        for v in versions(name)
        if any(key.startswith("dvc.") and h.startswith(md5) for key, h in v.tags.items())
    ]


def by_alias(
    name: str, alias: str, mlflow_client: MlflowClient | None = None
) -> ModelVersion | None:
    """The version that `alias` points to; None if there is no such alias (or model)."""
    from mlflow.exceptions import MlflowException

    try:
        return (mlflow_client or client()).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def aliases(name: str, mlflow_client: MlflowClient | None = None) -> dict[str, list[str]]:
    """The aliases of each version that has one."""
    found: dict[str, list[str]] = {}
    for alias, version in (mlflow_client or client()).get_registered_model(name).aliases.items():
        found.setdefault(str(version), []).append(alias)
    return found


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


def decide(
    challenger: Evaluation, champion: Evaluation | None, version: str, champion_version: str | None
) -> Decision:
    """Whether `version` becomes the champion; `champion` is None if there is none yet."""
    if champion is None:
        comparison = compare(challenger.accuracies, challenger.random)
        against = "random initialisation"
    elif champion.data != challenger.data:
        reason = (
            f"not comparable: evaluated on other data ({challenger.data}) than version"
            f" {champion_version} ({champion.data}); `ghn registry promote --force` promotes it all"
            " the same"
        )
        return Decision(False, version, f"version {champion_version}", None, reason)
    else:
        comparison = compare(challenger.accuracies, champion.accuracies)
        against = f"version {champion_version}"
    c = comparison
    if c.architectures < MIN_ARCHITECTURES:
        verdict = (
            f"only {c.architectures} architectures in common, at least {MIN_ARCHITECTURES} are"
            " needed"
        )
    else:
        verdict = (
            f"{c.challenger:.4f} against {c.champion:.4f} of {against}: difference"
            f" {c.difference:+.4f} {'exceeds' if c.better else 'does not exceed'} the noise"
            f" {c.noise:.4f} ({Z} standard errors over {c.architectures} architectures)"
        )
    return Decision(c.better, version, against, c, verdict)


def promote(
    name: str,
    version: str | None = None,
    force: bool = False,
    mlflow_client: MlflowClient | None = None,
) -> Decision:
    """Makes a version (by default @challenger) the champion if it is better; writes the decision as
    tags either way.

    Args:
        name: registered model.
        version: number; by default that of alias challenger.
        force: promote whatever the comparison says, or without one (the reason says so).
        mlflow_client: where; by default the present tracking store.

    Raises:
        RegistryError: there is no such version, or it has no evaluation.
    """
    mlflow_client = mlflow_client or client()
    candidate = (
        _version(mlflow_client, name, version)
        if version
        else by_alias(name, CHALLENGER, mlflow_client)
    )
    if candidate is None:
        raise RegistryError(
            f"model {name} has no version @{CHALLENGER}; `ghn registry list {name}` shows what"
            " there is"
        )
    champion = by_alias(name, CHAMPION, mlflow_client)
    number = str(candidate.version)
    if champion is not None and str(champion.version) == number:
        return Decision(False, number, f"version {number}", None, "it is the champion already")
    against = str(champion.version) if champion else None
    try:
        other = evaluation(champion, mlflow_client) if champion else None
        decision = decide(evaluation(candidate, mlflow_client), other, number, against)
    except RegistryError as error:
        if not force:
            raise
        decision = Decision(
            False, number, f"version {against}" if against else "nothing", None, str(error)
        )
    if force and not decision.promoted:
        reason = f"forced by {getpass.getuser()}, although: {decision.reason}"
        decision = replace(decision, promoted=True, reason=reason)
    tags = decision.tags()
    if decision.promoted and champion is not None:
        tags["promotion.previous"] = str(champion.version)
    for key, value in tags.items():
        mlflow_client.set_model_version_tag(name, number, key, value)
    if decision.promoted:
        mlflow_client.set_registered_model_alias(name, CHAMPION, number)
        champion_changed(name, number, decision.reason)
    return decision


def rollback(name: str, reason: str, mlflow_client: MlflowClient | None = None) -> tuple[str, str]:
    """Points @champion back to the version before; returns the numbers of the versions (from, to).

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    mlflow_client = mlflow_client or client()
    champion = by_alias(name, CHAMPION, mlflow_client)
    if champion is None:
        raise RegistryError(f"model {name} has no version @{CHAMPION}")
    previous = champion.tags.get("promotion.previous")
    if previous is None:
        raise RegistryError(
            f"version {champion.version} of {name} is the first champion: there is none to go"
            " back to"
        )
    _version(mlflow_client, name, previous)
    mlflow_client.set_registered_model_alias(name, CHAMPION, previous)
    mlflow_client.set_model_version_tag(
        name, str(champion.version), "promotion.decision", "rolled back"
    )
    mlflow_client.set_model_version_tag(
        name, str(champion.version), "promotion.rollback_reason", reason
    )
    champion_changed(name, previous, f"rolled back from version {champion.version}: {reason}")
    return str(champion.version), previous


def _version(mlflow_client: MlflowClient, name: str, number: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return mlflow_client.get_model_version(name, number)
    except MlflowException:
        raise RegistryError(f"model {name} has no version {number}") from None


def find(name: str, version: str) -> ModelVersion:
    """A version by its number or by `@alias`.

    Raises:
        RegistryError: there is none.
    """
    mlflow_client = client()
    if not version.startswith("@"):
        return _version(mlflow_client, name, version)
    found = by_alias(name, version[1:], mlflow_client)
    if found is None:
        raise RegistryError(
            f"model {name} has no version {version}; `ghn registry list {name}` shows what there is"
        )
    return found


def describe(name: str, found: Sequence[ModelVersion]) -> list[dict[str, str]]:
    """Rows for a table: version, aliases, variant, images, accuracy, decision, DVC hash of the
    weights.
    """
    names = aliases(name)
    return [
        {
            "version": str(v.version),
            "aliases": " ".join(f"@{alias}" for alias in sorted(names.get(str(v.version), []))),
            "variant": v.tags.get("variant", ""),
            "images": f"{v.tags.get('data_set', '')} {v.tags.get('image_size', '')}".strip(),
            "accuracy": v.tags.get("metrics.deepnets.mean", ""),
            "decision": v.tags.get("promotion.decision", ""),
            "weights": next(
                (h[:8] for key, h in v.tags.items() if key.endswith("ghn.safetensors")), ""
            ),
        }
        for v in found
    ]


def download(name: str, version: str, to: Path) -> Path:
    """Copies the weights of a version to file `to`."""
    import shutil

    from mlflow.artifacts import download_artifacts

    uri = client().get_model_version_download_uri(name, version)
    with TemporaryDirectory() as directory:
        path = download_artifacts(
            artifact_uri=f"{uri}/artifacts/ghn.safetensors", dst_path=directory
        )
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, to)
    return to
