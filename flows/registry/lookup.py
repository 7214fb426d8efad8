"""Versions in the MLflow registry: by tag, hash, number and alias; their weights and tags."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from flows.settings import paths
from flows.tracking.client import client
from ghn.errors import GHNError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


CHAMPION = "champion"
CHALLENGER = "challenger"


_NONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow says of a model, version or alias that does not exist; else the server has failed."""


class RegistryError(GHNError):
    """A model, version or alias does not exist, or cannot be compared."""


def versions(
    name: str, where: Mapping[str, str] | None = None, mlflow_client: MlflowClient | None = None
) -> list[ModelVersion]:
    """Versions of registered model `name`, newest first, whose tags have the values `where`.

    A key that is no tag's whole name matches tags that end with it (`ghn.safetensors` finds
    `dvc.models/ghn3/ ghn.safetensors`), and a value may be the first 8 characters or more of a DVC
    hash.
    """
    mlflow_client = mlflow_client or client(create=False)
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
        return (mlflow_client or client(create=False)).get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _NONE:
            return None
        raise


def aliases(name: str) -> dict[str, list[str]]:
    """The aliases of each version that has one."""
    found: dict[str, list[str]] = {}
    for alias, version in client(create=False).get_registered_model(name).aliases.items():
        found.setdefault(str(version), []).append(alias)
    return found


def numbered(mlflow_client: MlflowClient, name: str, number: str) -> ModelVersion:
    """A version by its number.

    Raises:
        RegistryError: there is none.
    """
    from mlflow.exceptions import MlflowException

    try:
        return mlflow_client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code in _NONE:
            raise RegistryError(f"model {name} has no version {number}") from None
        raise


def find(name: str, version: str, mlflow_client: MlflowClient | None = None) -> ModelVersion:
    """A version by its number or by `@alias`; MLflow has `latest` without an `@`.

    Raises:
        RegistryError: there is none.
    """
    mlflow_client = mlflow_client or client(create=False)
    if not version.startswith("@") and version.lower() != "latest":
        return numbered(mlflow_client, name, version)
    found = by_alias(name, version.removeprefix("@"), mlflow_client)
    if found is None:
        raise RegistryError(
            f"model {name} has no version {version}; `ghn registry list {name}` shows what there is"
        )
    return found


def set_tags(
    mlflow_client: MlflowClient, name: str, number: str, tags: Mapping[str, object]
) -> None:
    """Sets tags of a version, in their order."""
    for key, value in tags.items():
        mlflow_client.set_model_version_tag(name, number, key, str(value))


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
            "accuracy": v.tags.get("accuracy.deepnets", v.tags.get("metrics.deepnets.mean", "")),
            "decision": v.tags.get("promotion.decision", ""),
            "weights": next(
                (h[:8] for key, h in v.tags.items() if key.endswith("ghn.safetensors")), ""
            ),
        }
        for v in found
    ]


def download(name: str, version: str, to: Path) -> Path:
    """Copies the weights of a version to file `to`."""
    from mlflow.artifacts import download_artifacts

    uri = client(create=False).get_model_version_download_uri(name, version)
    with TemporaryDirectory() as directory:
        path = download_artifacts(
            artifact_uri=f"{uri}/artifacts/{paths.WEIGHTS_NAME}", dst_path=directory
        )
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, to)
    return to
