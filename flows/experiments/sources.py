"""What the images of a profile's experiments are made of: files outside of the tree, where DVC does
not look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from flows.experiments.catalogue import DetectEntry, Profile
from flows.settings import paths
from flows.settings.images import ImagesSpec
from flows.stages.sources import fingerprints
from ghn.errors import ConfigError
from ghn.files import atomic_path

FILE = paths.RESULTS / "experiments" / "sources.json"


def write_sources(profile: Profile, path: Path = FILE) -> Path:
    """Writes the fingerprint of each data set, null of those that are absent; returns `path`.

    Raises:
        DamagedFileError: a file is broken.
    """
    found: dict[str, object] = {
        spec.name: fingerprints(spec.name, spec.root) for spec in _specs(profile)
    }
    if any(isinstance(entry, DetectEntry) for entry in profile.experiments.values()):
        found["Penn-Fudan"] = _pennfudan()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return path


def _specs(profile: Profile) -> Iterator[ImagesSpec]:
    """The images that anything in the profile names."""
    yield profile.images
    for owner in (*profile.hypernetworks.values(), *profile.experiments.values()):
        for field in ("images", "source_images"):
            if isinstance(spec := getattr(owner, field, None), ImagesSpec):
                yield spec


def _pennfudan() -> str | None:
    from datasets.detection import load_pennfudan

    try:
        return load_pennfudan().digest
    except ConfigError:
        return None
