"""`ghn init` writes files that come back as the networks they were made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import ghn
from ghn.architectures import build
from ghn.cli import app
from ghn.errors import DamagedFileError, UnsupportedFormatError
from ghn.files import sha256
from ghn.initialize import save_initialized


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [("resnet18", None, None), ("mnasnet0_5", 7, 64), ("squeezenet1_1", 10, 224)],
)
def test_a_written_network_comes_back(
    tmp_path: Path, name: str, classes: int | None, size: int | None
) -> None:
    file = tmp_path / "network.safetensors"
    said = save_initialized(name, None, file, classes, size)
    assert f"ghn.load_initialized({str(file)!r})" in said
    model = ghn.load_initialized(file)
    expected = ghn.from_pretrained()(build(name, classes or 10, size or 32))
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=0, atol=0)
    logits = model.eval()(torch.randn(2, 3, size or 32, size or 32))
    assert logits.shape == (2, classes or 10)


def test_the_same_network_is_the_same_bytes(tmp_path: Path) -> None:
    """Also where parameters are not predicted: Swin's tables of positions are drawn at random."""
    files = [tmp_path / f"{name}.safetensors" for name in "abc"]
    state = torch.get_rng_state()
    for file, seed in zip(files, (0, 0, 1), strict=True):
        save_initialized("swin_t", None, file, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert sha256(files[0]) == sha256(files[1]) != sha256(files[2])


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.pt", r"writes safetensors; call the file .*a\.safetensors"),
        ("plain", "writes safetensors"),
        ("no/such/a.safetensors", "no/such does not exist; make it first"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, out: str, message: str) -> None:
    done = CliRunner().invoke(app, ["init", "squeezenet1_1", "-o", str(tmp_path / out)])
    assert done.exit_code == 2
    assert re.search(message, done.output.replace("\n", " "))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match="ghn init NAME"):
        ghn.load_initialized(file)
    save_file({"x": torch.zeros(2)}, file, metadata={"architecture": "resnet18"})
    with pytest.raises(UnsupportedFormatError, match=r"does not name its .*image_size"):
        ghn.load_initialized(file)
    file.write_bytes(b"half")
    with pytest.raises(DamagedFileError, match=r"other\.safetensors"):
        ghn.load_initialized(file)
