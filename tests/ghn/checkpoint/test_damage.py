"""A checkpoint is what was written, or is refused by its name; which file of a directory it is."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ghn
from ghn import GHN, GHNConfig
from ghn.checkpoint.names import to_released
from ghn.checkpoint.unpickler import load_untrusted
from ghn.errors import DamagedFileError, GHNError, UnsupportedFormatError, UntrustedPickleError
from ghn.initialize import save_initialized


def small() -> GHN:
    torch.manual_seed(0)
    return GHN(GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_channels=8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ghn.safetensors"
    ghn.save_checkpoint(small(), path, {"image_size": 32, "scores": {2: 0.1, 10: float("nan")}})
    return path


def flipped(path: Path, position: int, bit: int, to: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    to.write_bytes(data)
    return to


def test_any_flipped_bit_is_an_error_that_names_the_file(weights: Path, tmp_path: Path) -> None:
    assert ghn.load_checkpoint(weights).metadata["image_size"] == 32
    size, draw = weights.stat().st_size, random.Random(0)
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    places = [draw.randrange(size) for _ in range(60)]
    places += [draw.randrange(header) for _ in range(120)]
    notes = weights.read_bytes().index(b"__metadata__")
    places += range(notes, notes + 60)
    for place in places:
        bad = flipped(weights, place, draw.randrange(8), tmp_path / "bad.safetensors")
        with pytest.raises(GHNError, match=r"bad\.safetensors"):
            ghn.load_checkpoint(bad)


def test_files_without_a_digest_load_as_before(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    header = {"version": 1, "config": small().config.to_dict(), "metadata": {"epoch": 3}}
    save_file(state, tmp_path / "old.safetensors", metadata={"ghn": json.dumps(header)})
    assert ghn.load_checkpoint(tmp_path / "old.safetensors").metadata == {"epoch": 3}
    save_file(to_released(state), tmp_path / "released.safetensors", metadata={"format": "pt"})
    assert ghn.load_checkpoint(tmp_path / "released.safetensors").config.hidden == 16


def test_a_flipped_bit_of_an_initialised_network(tmp_path: Path) -> None:
    file = tmp_path / "network.safetensors"
    save_initialized("squeezenet1_1", None, file)
    draw, size = random.Random(0), file.stat().st_size
    for place in [draw.randrange(size) for _ in range(5)] + [size - 1]:
        bad = flipped(file, place, draw.randrange(8), tmp_path / "bad.safetensors")
        with pytest.raises((DamagedFileError, UnsupportedFormatError), match=r"bad\.safetensors"):
            ghn.load_initialized(bad)


PREFIXES = ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("names", ["released", "ours"])
def test_prefixes_of_wrappers(prefix: str, names: str, tmp_path: Path) -> None:
    state = small().state_dict()
    named = to_released(state) if names == "released" else state
    wrapped = {prefix + name: tensor for name, tensor in named.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "a.pt")
    loaded = ghn.load_checkpoint(tmp_path / "a.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())


ARRAYS: dict[str, Any] = {
    "floats": np.arange(5.0),
    "halves": np.ones((2, 3), np.float16),
    "by column": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "foreign bytes": np.arange(3, dtype=">u4"),
    "complex": np.array([1 + 2j]),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 4), np.uint8),
    "text": np.array(["ab", "c"]),
    "scalar": np.float32(0.5),
    "twice": [np.arange(3)] * 2,
}

NEVER_WRITTEN = ("torch", "empty")
"""PyTorch refuses its own file: it writes empty bytes as a call that it does not read."""


@pytest.mark.parametrize(
    ("writer", "protocol"),
    [("torch", 2), *((writer, n) for writer in ("pickle", "joblib") for n in (2, 4, 5))],
)
def test_arrays_beside_the_weights(writer: str, protocol: int, tmp_path: Path) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if (writer, name) != NEVER_WRITTEN}
    content = {"state_dict": to_released(small().state_dict()), "step": 7, **arrays}
    path = tmp_path / "checkpoint.pt"
    if writer == "torch":
        torch.save(content, path, pickle_protocol=protocol)
    elif writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        joblib.dump(content, path, protocol=protocol)
    assert ghn.load_checkpoint(path).metadata["step"] == 7
    read = load_untrusted(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)


def test_weights_that_are_arrays(tmp_path: Path) -> None:
    state = {name: tensor.numpy() for name, tensor in to_released(small().state_dict()).items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"state_dict": state}))
    assert ghn.load_checkpoint(tmp_path / "a.pkl").config.hidden == 16


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    state = to_released(small().state_dict())
    content = {"state_dict": state, "more": np.array([{}, print], dtype=object)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UntrustedPickleError, match="refused"):
        ghn.load_checkpoint(tmp_path / "a.pkl")


def other(path: Path) -> Path:
    """A hypernetwork that must not be taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ghn.save_checkpoint(GHN(GHNConfig(hidden=32, layers=1, heads=2, num_classes=10)), path)
    return path


@pytest.mark.parametrize("place", [
    "ghn.safetensors", "artifacts/ghn.safetensors", "a/b/ghn.safetensors", "weights.safetensors",
    "artifacts/1f2e3d",
])  # fmt: skip
def test_the_weights_of_a_directory(place: str, weights: Path, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(weights, tmp_path / place)
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    other(tmp_path / "code/ghn/pretrained/ghn.safetensors")
    other(tmp_path / "code/ghn/pretrained/other.safetensors")
    other(tmp_path / ".cache/ghn.safetensors")
    assert ghn.load_checkpoint(tmp_path).config.hidden == 16


def test_a_directory_without_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    other(tmp_path / "code/ghn/pretrained/ghn3-cifar10.safetensors")
    with pytest.raises(UnsupportedFormatError, match=r"no ghn\.safetensors; name the file"):
        ghn.load_checkpoint(tmp_path)
    other(tmp_path / "artifacts/one")
    other(tmp_path / "artifacts/two")
    with pytest.raises(UnsupportedFormatError, match="2 safetensors files; name the file"):
        ghn.load_checkpoint(tmp_path)
