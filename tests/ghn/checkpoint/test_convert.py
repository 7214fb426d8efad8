"""A hypernetwork goes from one format to another and stays the same."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import ghn
from ghn.checkpoint import convert, describe
from ghn.cli import app
from ghn.errors import ConfigError, UnsupportedFormatError
from ghn.models import GHN, GHNConfig


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("released", [False, True])
def test_a_hypernetwork_comes_back(tmp_path: Path, name: str, released: bool) -> None:
    original = GHN(GHNConfig.variant("ghn3-32", num_classes=10))  # with no part of our own
    original.save_pretrained(tmp_path / "ours")
    back = ghn.from_pretrained(convert(tmp_path / "ours", tmp_path / name, released=released))
    assert back.config == original.config
    torch.testing.assert_close(back.state_dict(), original.state_dict(), rtol=0, atol=0)


def test_a_gated_one_comes_back_from_a_pickle_with_its_switches(tmp_path: Path) -> None:
    """Shapes alone do not tell that it normalises and which corner of the grid it takes."""
    config = GHNConfig(
        message_passing="gated",
        hidden=8,
        layers=1,
        heads=1,
        num_classes=10,
        decoder_channels=16,
        decoder_kernel=11,
        edge_embedding="none",
        centrality=False,
        input_distance=False,
        window="corner",
    )
    ghn.save_checkpoint(GHN(config), tmp_path / "ours.safetensors")
    back = ghn.from_pretrained(convert(tmp_path / "ours.safetensors", tmp_path / "theirs.pt"))
    assert back.config == config


@pytest.mark.parametrize(
    "field",
    [
        {"normalize": False},
        {"window": "corner"},
        {"edge_embedding": "none", "heads": 4},
        {"message_passing": "gated", "heads": 1, "layers": 1, "virtual_edges": False},
    ],
    ids=["normalize", "window", "heads", "virtual_edges"],
)
def test_what_a_released_file_does_not_tell_is_refused(
    tmp_path: Path, field: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """Read again it would be another hypernetwork, or none; a pickle has its switches."""
    small = {"hidden": 32, "layers": 1, "num_classes": 10, "decoder_channels": 16}
    original = GHN(GHNConfig(**(small | {"decoder_kernel": 11} | field)))
    ghn.save_checkpoint(original, tmp_path / "ours.safetensors")
    name = request.node.callspec.id
    with pytest.raises(UnsupportedFormatError, match=f"has {name} = .*NAME.pt"):
        convert(tmp_path / "ours.safetensors", tmp_path / "a.safetensors", released=True)
    assert not (tmp_path / "a.safetensors").exists()
    back = ghn.from_pretrained(convert(tmp_path / "ours.safetensors", tmp_path / "a.pt"))
    state = original.state_dict()
    torch.testing.assert_close(back.state_dict(), state, rtol=0, atol=0)
    assert getattr(back.config, name) == getattr(original.config, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_of_the_file_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    path = convert(None, tmp_path / "half.safetensors", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(path).values()} == {dtype}
    back = ghn.from_pretrained(path)
    assert {tensor.dtype for tensor in back.parameters()} == {torch.float32}
    assert back.metadata["images"] == "cifar10"
    assert path.stat().st_size < 0.51 * Path(describe()["file"]).stat().st_size


def test_the_same_conversion_is_the_same_bytes(tmp_path: Path) -> None:
    paths = [convert(None, tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("out", "message"), [("a.onnx", "call the file"), ("no/a.pt", "no does not exist")]
)
def test_names_that_say_no_format_are_refused(tmp_path: Path, out: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(None, tmp_path / out)
    assert not list(tmp_path.iterdir())


def test_info_in_words_and_as_json(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["info"]).stdout
    assert "1,699,172" in said
    assert "cifar10" in said
    assert describe()["classes"] == 10
    missing = CliRunner().invoke(app, ["info", str(tmp_path / "none.pt")])
    assert missing.exit_code == 2
    assert "none.pt" in missing.stderr
