"""Networks by `FILE.py:NAME` and `MODULE:NAME`."""

from pathlib import Path

import pytest
import torch

import ghn
from ghn.architectures.own import network
from ghn.errors import ConfigError, GHNError, UnknownArchitectureError
from ghn.initialize import save_initialized

CODE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))

class Sized(nn.Module):
    def __init__(self, img_size: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * img_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))

def needs(depth: int, num_classes: int): ...
def number(): return 3
made = Small()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_classes_and_size_are_handed_over(file: Path) -> None:
    assert network(f"{file}:Small", 7, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert network(f"{file}:Sized", 7, 16)(torch.zeros(2, 3, 16, 16)).shape == (2, 7)


def test_a_module_is_imported_from_here(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert network("mine:Small", 3, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mine.py:Smal", UnknownArchitectureError, "nearest: Small"),
        ("other.py:Small", UnknownArchitectureError, "other.py does not exist"),
        ("no.such.module:Small", UnknownArchitectureError, "no module 'no.such.module'"),
        ("mine.py:needs", ConfigError, "needs depth"),
        ("mine.py:number", ConfigError, "gives a int"),
        ("mine.py:made", ConfigError, "name the class or function"),
        ("broken.py:Small", ConfigError, r"broken.py cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_made_is_said(
    file: Path, name: str, error: type[GHNError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("broken.py").write_text("class Small(:")
    with pytest.raises(error, match=message):
        network(name, 10, 32)


def test_a_file_does_not_name_code_to_run(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    said = save_initialized(f"{file}:Small", None, out, 5)
    assert "YOUR_NETWORK" in said
    with pytest.raises(ConfigError, match=r"pass that network"):
        ghn.load_initialized(out)
    model = network(f"{file}:Small", 5, 32)
    before = model.head.weight.clone()
    assert ghn.load_initialized(out, model) is model
    assert not torch.equal(before, model.head.weight)
    with pytest.raises(ConfigError, match="not of this"):
        ghn.load_initialized(out, network(f"{file}:Small", 6, 32))


def test_half_precision_halves_the_file(file: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_initialized(f"{file}:Small", None, whole)
    save_initialized(f"{file}:Small", None, half, dtype=torch.float16)
    models = [ghn.load_initialized(f, network(f"{file}:Small", 10, 32)) for f in (whole, half)]
    assert models[1].head.weight.dtype == torch.float32
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-3, atol=1e-5)
    assert half.stat().st_size < whole.stat().st_size
