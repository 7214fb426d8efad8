"""Hypernetworks to and from the Hugging Face hub, without a network: directories, its cache, and
what an upload would send.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import huggingface_hub.hub_mixin
import pytest
import torch
from huggingface_hub import ModelCard

import ghn
from ghn.errors import DamagedFileError, UnreachableError, UnsupportedFormatError
from ghn.models import GHN, GHNConfig

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def small() -> GHN:
    torch.manual_seed(3)
    made = GHN(GHNConfig(hidden=16, layers=1, heads=2, decoder_channels=8, num_classes=5))
    made.metadata = {"images": "digits", "image_size": 16, "accuracy": {"resnet": 0.4, "vit": 0.2}}
    return made.eval()


def assert_same(found: GHN, wanted: GHN) -> None:
    assert type(found) is GHN
    assert found.config == wanted.config
    assert not found.training
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_a_directory_there_and_back(tmp_path: Path) -> None:
    made = small()
    for name in ("one", "two"):
        made.save_pretrained(tmp_path / name, model_card_kwargs={"license": "mit"})
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {"README.md", "config.json", "ghn.safetensors"}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    found = GHN.from_pretrained(tmp_path / "one")
    assert_same(found, made)
    assert found.metadata == {**made.metadata, "source": str(tmp_path / "one")}
    assert_same(ghn.from_pretrained(tmp_path / "one"), made)  # one format
    assert json.loads((tmp_path / "one" / "config.json").read_text()) == made.config.to_dict()


def test_the_card_says_what_it_is_and_what_was_measured(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit"
    assert "graph-hypernetwork" in card.data.tags
    assert "| training images | digits |" in card.text
    assert "| resnet | 40.0% |" in card.text
    assert "Chance is 20.0%" in card.text


def cached(tmp_path: Path) -> Path:
    """A cache as a download leaves it: user/name at a commit, which main and v1 mean."""
    cache = tmp_path / "cache"
    repository = cache / "models--user--name"
    small().save_pretrained(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text(COMMIT)
    return cache


def test_only_local_files(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    for revision in (None, "v1", COMMIT):
        options = {"revision": revision, "local_files_only": True, "cache_dir": cache}
        assert_same(GHN.from_pretrained("user/name", **options), small())
    with pytest.raises(UnreachableError, match=r"user/name could not be had .* offline"):
        GHN.from_pretrained("user/name", revision="v2", local_files_only=True, cache_dir=cache)
    with pytest.raises(UnreachableError, match="no name could not be had"):
        GHN.from_pretrained("no name", local_files_only=True, cache_dir=cache)


def test_the_offline_mode_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1
    cache = cached(tmp_path)
    assert_same(GHN.from_pretrained("user/name", cache_dir=cache), small())
    with pytest.raises(UnreachableError, match="user/other could not be had"):
        GHN.from_pretrained("user/other", cache_dir=cache)


def test_what_is_no_hypernetwork_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"holds no ghn\.safetensors"):
        GHN.from_pretrained(tmp_path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pytorch_model.bin")  # no pickle is read
    with pytest.raises(UnsupportedFormatError, match=r"holds no ghn\.safetensors"):
        GHN.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"config\.json"):
        GHN.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "ghn.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedFileError, match="damaged"):
        GHN.from_pretrained(tmp_path)


def test_push_sends_what_from_pretrained_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            sent["token"] = token

        def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path: Path, **options: Any) -> str:
            shutil.copytree(folder_path, tmp_path / "sent")
            sent.update(options)
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    url = small().push_to_hub("user/name", token="secret", private=True)
    assert url == "https://hub/commit"
    assert (sent["repo_id"], sent["token"], sent["repo_type"]) == ("user/name", "secret", "model")
    assert_same(GHN.from_pretrained(tmp_path / "sent"), small())
    assert "secret" not in (tmp_path / "sent" / "README.md").read_text()


def test_without_huggingface_hub_it_says_how_to_get_it() -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "import ghn\n"
        "made = ghn.from_pretrained()\n"
        "for call in (ghn.GHN.from_pretrained, made.save_pretrained, made.push_to_hub):\n"
        "    try: call('user/name')\n"
        "    except ghn.GHNError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("user/name: the Hugging Face hub needs huggingface_hub: pip") == 3
