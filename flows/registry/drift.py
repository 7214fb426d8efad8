"""Whether a version is still worth what it was worth when it was registered: evaluated anew with
today's code, on the images, with the seed and under the settings of its registration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.registry.comparison import Comparison
from flows.registry.evaluation import Evaluation, read_evaluation
from flows.registry.lookup import RegistryError
from flows.registry.promotion import unlike
from flows.rows.provenance import dvc_hash
from flows.rows.schema import read_rows
from flows.settings import paths
from ghn.errors import GHNError

PARAMETERS = {
    "batch_size": "evaluate.batch_size",
    "max_gmacs": "evaluate.max_gmacs",
    "min_images": "evaluate.min_images",
    "images": "evaluate.images",
    "seed": "base.seed",
}
"""The parameters behind the conditions of an evaluation."""

TAGS = {"data_set": "images.name", "image_size": "images.image_size"}
"""The parameters behind tags of a version."""


class DriftError(GHNError):
    """A registered model is worth something else than when it was registered."""


@dataclass(frozen=True)
class Drift:
    """Two evaluations of one version: `comparison` now against then, and how many architectures
    failed.
    """

    comparison: Comparison
    failed: int
    failed_then: int

    @property
    def drifted(self) -> bool:
        """Whether the accuracy differs by more than the noise, or more architectures fail."""
        c = self.comparison
        return abs(c.difference) > c.noise or self.failed > self.failed_then

    def row(self) -> dict[str, Any]:
        """The numbers as a table and tags take them."""
        c = self.comparison
        return {
            "architectures": c.architectures,
            "accuracy now": round(c.challenger, 5),
            "accuracy when registered": round(c.champion, 5),
            "difference": round(c.difference, 5),
            "noise": round(c.noise, 5),
            "failed": self.failed,
        }


def as_registered(tags: Mapping[str, str], then: Evaluation) -> dict[str, Any]:
    """Overrides of params.yaml under which a version with these tags is evaluated as it was."""
    found = {PARAMETERS[key]: value for key, value in then.conditions.items() if key in PARAMETERS}
    found |= {TAGS[key]: value for key, value in tags.items() if key in TAGS}
    if "images.image_size" in found:
        found["images.image_size"] = int(found["images.image_size"])
    return found


def evaluated_anew(tree: Path) -> Evaluation:
    """The evaluation in a tree; the hashes of the architectures that it is of are conditions."""
    splits = {row["split"] for row in read_rows(tree / paths.EVALUATION)}
    files = (paths.DEEPNETS / f"{split}.h5" for split in sorted(splits))
    hashes = {f"dvc.{file.as_posix()}": dvc_hash(tree / file) for file in files}
    known = {key: value for key, value in hashes.items() if value is not None}  # not torchvision's
    return read_evaluation(tree / paths.EVALUATION, known)


def drift(now: Evaluation, then: Evaluation) -> Drift:
    """Compares on all images, over the architectures that both have (a quick look takes fewer).

    Raises:
        RegistryError: the architectures, images or settings are not those of the registration.
    """
    common = sorted({*now.architectures} & {*then.architectures})
    if not common:
        raise RegistryError(
            "not comparable with the registration: no architecture was evaluated then and now"
        )
    now, then = _only(now, common), _only(then, common)
    then = replace(then, conditions={key: then.conditions.get(key) for key in now.conditions})
    if differences := unlike(now, then):
        raise RegistryError(
            f"not comparable with the registration: {differences}; `dvc repro register` with its"
            " weights brings an evaluation of today"
        )
    return Drift(now.against(then, half=False)["all"], now.failed, then.failed)


def _only(found: Evaluation, names: list[str]) -> Evaluation:
    rows = [found.architectures.index(name) for name in names]
    return Evaluation(
        tuple(names),
        found.splits[rows],
        found.seen[rows],
        found.correct[rows],
        found.random[rows],
        found.conditions,
    )
