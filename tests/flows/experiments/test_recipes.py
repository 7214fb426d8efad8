"""What a hypernetwork of the experiments was made from: it is fetched again if that is another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flows.experiments.catalogue import Hypernetwork, Profile
from flows.experiments.hypernetworks import (
    RECIPE_NAME,
    _stage_params,
    is_missing,
    obtain,
    recipe,
)
from flows.experiments.sources import write_sources
from flows.params import load_params
from flows.settings import paths
from flows.settings.images import ImagesSpec
from flows.stages.images import load_split
from flows.trials.images import trial_images
from ghn import names
from ghn.checkpoint import save_checkpoint
from ghn.errors import ConfigError
from ghn.models import GHN, GHNConfig


def weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_checkpoint(GHN(GHNConfig(hidden=16, layers=1, heads=2, decoder_channels=8)), path)


def test_any_seed_finds_the_images_of_the_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    monkeypatch.chdir(tmp_path)
    profile = Profile(
        seed=3,
        images=ImagesSpec(name="digits", image_size=16, seed=1, max_test=77),
        num_classes=10,
        train={"steps": 2, "warmup_steps": 1},
        hypernetworks={"plain": Hypernetwork(), "other": Hypernetwork(seed=2)},
        experiments={},
    )
    for name, seed in (("plain", 3), ("other", 2)):
        trial_images(profile.images_of(name))
        found = _stage_params(profile, name, params)
        assert len(load_split(found.images, found.base.seed, "val")) > 0
        assert found.train.recipe_with(found.base.seed).seed == seed


def test_one_that_the_profile_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="profile laptop has no hypernetwork 'nope', but "):
        obtain("laptop", "nope")


def test_the_pipeline_s_own_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    path = Path("mine.yaml")
    path.write_text(
        "{images: {name: digits}, num_classes: 10, experiments: {},"
        " hypernetworks: {ghn3: {released: ghn3-cifar10}}}"
    )
    paths.weights("ghn3").parent.mkdir(parents=True)
    paths.weights("ghn3").write_bytes(b"hours of training")
    with pytest.raises(ConfigError, match=r"hypernetworks\.ghn3 of profile mine\.yaml would"):
        obtain(str(path), "ghn3")
    assert paths.weights("ghn3").read_bytes() == b"hours of training"


def test_a_changed_network_of_the_population_is_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = "flows.experiments.hypernetworks"
    monkeypatch.setattr(f"{module}.images_digest", lambda _: "pixels")
    monkeypatch.setattr(f"{module}.open_split", lambda *_: SimpleNamespace(content="split"))
    own = Path("my.py")
    own.write_text("from torch import nn\n\ndef net(num_classes):\n    return nn.Linear(8, 10)\n")
    profile = Profile(
        images=ImagesSpec(name="digits", image_size=8),
        num_classes=10,
        hypernetworks={
            "g": Hypernetwork(train={"population": [{"networks": "my.py:net"}]}),
            "plain": Hypernetwork(),
        },
        experiments={},
    )
    for name in ("g", "plain"):
        paths.weights(name).parent.mkdir(parents=True)
        paths.weights(name).write_bytes(b"weights")
        (paths.model(name) / RECIPE_NAME).write_text(json.dumps(recipe(profile, name)))
        assert not is_missing(profile, name)
    seen = write_sources(profile).read_text()
    own.write_text(own.read_text() + "\n# changed\n")
    assert is_missing(profile, "g")
    assert not is_missing(profile, "plain")
    assert write_sources(profile).read_text() != seen
    assert "population" not in recipe(profile, "plain")
    (paths.model("plain") / RECIPE_NAME).write_text('{"seed":')  # cut
    assert is_missing(profile, "plain")


def test_images_of_one_name_in_two_places_are_two_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "flows.experiments.sources.fingerprints", lambda name, root: {"train": str(root)}
    )
    profile = Profile(
        images=ImagesSpec(name="photos", image_size=8),
        num_classes=10,
        hypernetworks={
            "g": Hypernetwork(images=ImagesSpec(name="photos", image_size=8, root="elsewhere"))
        },
        experiments={},
    )
    assert json.loads(write_sources(profile).read_text()) == {
        "photos": {"train": "None"},
        "photos in elsewhere": {"train": "elsewhere"},
    }


def test_a_released_one_counts_by_what_its_name_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "released.safetensors"
    profile = Profile(
        images=ImagesSpec(name="digits", image_size=8),
        num_classes=10,
        hypernetworks={"g": Hypernetwork(released=str(file))},
        experiments={},
    )
    monkeypatch.setattr("flows.experiments.hypernetworks.load_profile", lambda _: profile)
    weights(file, 1)
    first, seen = recipe(profile, "g"), write_sources(profile).read_text()
    obtain("p", "g")
    assert not is_missing(profile, "g")
    before = paths.weights("g").read_bytes()
    assert json.loads((paths.model("g") / RECIPE_NAME).read_text()) == first
    weights(file, 2)
    assert recipe(profile, "g") != first
    assert write_sources(profile).read_text() != seen
    assert is_missing(profile, "g")
    obtain("p", "g")
    assert paths.weights("g").read_bytes() != before
    assert not is_missing(profile, "g")


def test_the_package_counts_beside_a_copy_of_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy in models/, which names lead to first, once hid that the package had other weights
    by now.
    """
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "__file__", str(tmp_path / "names.py"))
    packaged = tmp_path / "pretrained" / "ours.safetensors"
    packaged.parent.mkdir()
    profile = Profile(
        images=ImagesSpec(name="digits", image_size=8),
        num_classes=10,
        hypernetworks={"ours": Hypernetwork(released="ours")},
        experiments={},
    )
    monkeypatch.setattr("flows.experiments.hypernetworks.load_profile", lambda _: profile)
    weights(packaged, 1)
    obtain("p", "ours")
    assert not is_missing(profile, "ours")
    before, seen = paths.weights("ours").read_bytes(), write_sources(profile).read_text()
    weights(packaged, 2)
    assert is_missing(profile, "ours")
    assert write_sources(profile).read_text() != seen
    obtain("p", "ours")
    assert paths.weights("ours").read_bytes() != before
    assert not is_missing(profile, "ours")
