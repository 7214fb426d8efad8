"""What a profile's experiments are made of outside of the tree, where DVC does not look: files of
images, weights by name, and networks of your own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from flows.experiments.catalogue import DetectEntry, Profile, inits_of
from flows.settings import paths
from flows.settings.images import ImagesSpec
from flows.settings.inits import BASELINES, RANDOM, hypernetwork_name
from flows.stages.sources import fingerprints, networks
from flows.trials.located import source_stamp, weights_stamp
from ghn.errors import ConfigError
from ghn.files import atomic_path

FILE = paths.RESULTS / "experiments" / "sources.json"


def write_sources(profile: Profile) -> Path:
    """Writes the fingerprint of each data set, of weights that are no stage's output, and of the
    networks of populations; null of those that are absent. Returns `FILE`.

    Raises:
        DamagedFileError: a file is broken.
    """
    found: dict[str, object] = {
        _named(spec): fingerprints(spec.name, spec.root) for spec in _specs(profile)
    }
    if any(isinstance(entry, DetectEntry) for entry in profile.experiments.values()):
        found["Penn-Fudan"] = _pennfudan()
    if weights := {init: weights_stamp(init) for init in _inits(profile)}:
        found["weights"] = weights
    if released := {source: source_stamp(source) for source in _released(profile)}:
        found["released"] = released
    recipes = {name: profile.train_config(name) for name in profile.hypernetworks}
    if drawn := {n: networks(recipe) for n, recipe in recipes.items() if recipe.population}:
        found["networks"] = drawn
    with atomic_path(FILE) as temporary:
        temporary.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return FILE


def _specs(profile: Profile) -> Iterator[ImagesSpec]:
    """The images that anything in the profile names."""
    yield profile.images
    for owner in (*profile.hypernetworks.values(), *profile.experiments.values()):
        for field in ("images", "source_images"):
            if isinstance(spec := getattr(owner, field, None), ImagesSpec):
                yield spec


def _named(spec: ImagesSpec) -> str:
    return spec.name if spec.root is None else f"{spec.name} in {spec.root}"


def _inits(profile: Profile) -> set[str]:
    """The initialisations from weights that the profile does not make itself."""
    named = {name for entry in profile.experiments.values() for name in inits_of(entry)}
    named |= {profile.train_config(name).initial or RANDOM for name in profile.hypernetworks}
    named = {init for init in named if hypernetwork_name(init) not in profile.hypernetworks}
    return named - {*BASELINES, "ghn"}


def _released(profile: Profile) -> set[str]:
    """The hypernetworks that the profile takes from elsewhere, as `ghn.from_pretrained` does."""
    return {known.released for known in profile.hypernetworks.values() if known.released}


def _pennfudan() -> str | None:
    from datasets.detection import load_pennfudan

    try:
        return load_pennfudan().digest
    except ConfigError:
        return None
