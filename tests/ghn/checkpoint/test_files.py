"""Checkpoints come back as they were saved; released names and configurations are understood;
errors name the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from safetensors.torch import load_file, save_file

import ghn
from ghn import GHN, VARIANTS, GHNConfig, load_checkpoint, save_checkpoint
from ghn.checkpoint.files import save_released
from ghn.checkpoint.names import config_from_released, from_released, infer_config, to_released
from ghn.errors import DamagedFileError, GHNError, UnsupportedFormatError, UntrustedPickleError

SMALL = {"hidden": 16, "num_classes": 5, "decoder_channels": 16, "decoder_kernel": 11}


def small(name: str = "ghn3-t") -> GHN:
    torch.manual_seed(0)
    fields = VARIANTS[name] | SMALL
    if fields.get("decoder") == "low-rank":
        fields |= {"rank": 4, "factor_length": 64}
    return GHN(GHNConfig(**fields))


def assert_equal(a: GHN, b: GHN) -> None:
    assert a.config == b.config
    theirs = b.state_dict()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("name", VARIANTS)
def test_round_trip(name: str, tmp_path: Path) -> None:
    hypernetwork = small(name)
    save_checkpoint(hypernetwork, tmp_path / "a.safetensors", {"epoch": 3})
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert_equal(hypernetwork, loaded)
    assert loaded.metadata == {"epoch": 3}
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    save_checkpoint(loaded, tmp_path / "b.safetensors", {"epoch": 3})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_layers_that_no_released_file_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match="no counterpart"):
        save_released(small("ghn2-s"), tmp_path / "released.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", [n for n, f in VARIANTS.items() if "decoder" not in f and n != "ghn2-s"]
)
def test_released_names_round_trip_and_the_configuration_is_inferred(
    name: str, tmp_path: Path
) -> None:
    hypernetwork = small(name)
    save_released(hypernetwork, tmp_path / "released.safetensors")
    names = set(load_file(tmp_path / "released.safetensors"))
    assert {
        "embed.weight",
        "shape_enc.embed_channel.weight",
        "decoder.conv.2.weight",
        "bias_class.1.bias",
    } <= names
    loaded = load_checkpoint(tmp_path / "released.safetensors")
    traceless = (
        {} if hypernetwork.config.edge_embedding != "none" else {"heads": loaded.config.heads}
    )
    expected = GHNConfig.from_dict(hypernetwork.config.to_dict() | traceless)
    if expected.message_passing != "transformer":  # these fields have no effect
        expected = GHNConfig.from_dict(expected.to_dict() | {"layers": 1, "heads": 1})
    assert loaded.config == expected
    for key, tensor in hypernetwork.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key])


def released_state() -> dict[str, torch.Tensor]:
    return to_released(small().state_dict())


def test_structural_embeddings_at_top_level() -> None:
    state = released_state()
    structural = (
        "gnn.0.centrality_embed_in",
        "gnn.0.centrality_embed_out",
        "gnn.0.input_dist_embed",
    )
    moved = {
        key.removeprefix("gnn.0.") if key.startswith(structural) else key: value
        for key, value in state.items()
    }
    assert moved.keys() != state.keys()
    assert from_released(moved).keys() == from_released(state).keys()


def test_convolutions_of_the_decoder_and_a_prefix(tmp_path: Path) -> None:
    hypernetwork = small("ghn2")
    convolutions = (
        "decoder.conv.0.weight",
        "decoder.conv.2.weight",
        "decoder.class_layer_predictor.1.weight",
    )
    state = {
        f"module.{key}": value[:, :, None, None] if key in convolutions else value
        for key, value in to_released(hypernetwork.state_dict()).items()
    }
    torch.save({"state_dict": state, "config": {"heads": None}}, tmp_path / "ghn2.pt")
    loaded = load_checkpoint(tmp_path / "ghn2.pt")
    assert_equal(hypernetwork, loaded)


@pytest.mark.parametrize(
    "write",
    [
        lambda state, path: joblib.dump(state, path),
        lambda state, path: joblib.dump(state, path, compress=3),
        lambda state, path: torch.save({"state_dict": state, "epoch": 7}, path),
        lambda state, path: torch.save(
            {"state_dict": state, "config": argparse.Namespace(heads=8, ve=True)}, path
        ),
    ],
)
def test_released_pickles(write: Callable[[dict, Path], Any], tmp_path: Path) -> None:
    write(released_state(), tmp_path / "ghn3.pt")
    assert_equal(small(), load_checkpoint(tmp_path / "ghn3.pt"))


def test_a_released_configuration_adds_what_shapes_do_not_tell() -> None:
    inferred = infer_config(small("ghn1").state_dict())
    assert not inferred.normalize
    config = config_from_released({"weight_norm": True, "heads": 8, "hid": 16}, inferred)
    assert config.normalize
    assert config.heads == 1
    no_edges = infer_config(small("ghn3-t-no-edges").state_dict())
    assert config_from_released({"heads": 4}, no_edges).heads == 4
    with pytest.raises(UnsupportedFormatError, match="decoder 'mlp'"):
        config_from_released({"decoder": "mlp"}, inferred)


def test_directories_hold_one_file(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormatError, match=r"no ghn\.safetensors"):
        load_checkpoint(tmp_path)
    save_checkpoint(small(), tmp_path / "model" / "artifacts" / "ghn.safetensors")
    assert_equal(small(), load_checkpoint(tmp_path))
    save_checkpoint(small(), tmp_path / "ghn.safetensors")
    with pytest.raises(UnsupportedFormatError, match="2 safetensors files; name the file"):
        load_checkpoint(tmp_path)


def damaged(tmp_path: Path, kind: str) -> Path:
    hypernetwork, path = small(), tmp_path / "x.safetensors"
    header = {"version": 1, "config": hypernetwork.config.to_dict(), "metadata": {}}
    state = {name: tensor.clone() for name, tensor in hypernetwork.state_dict().items()}
    if kind == "missing tensor":
        del state["norm.weight"]
    elif kind == "extra tensor":
        state["extra"] = torch.zeros(1)
    elif kind == "wrong shape":
        state["norm.weight"] = torch.zeros(3)
    elif kind == "no config":
        del header["config"]
    elif kind == "newer":
        header["version"] = 2
    save_file(state, path, metadata={"ghn": json.dumps(header)})
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("missing tensor", DamagedFileError, r"norm\.weight is missing"),
        ("extra tensor", DamagedFileError, "extra is not part of it"),
        ("wrong shape", DamagedFileError, r"norm\.weight has shape \(3,\), not \(16,\)"),
        ("no config", DamagedFileError, "no readable configuration"),
        (
            "newer",
            UnsupportedFormatError,
            "has version 2 of the format; this program reads up to 1",
        ),
        ("truncated", DamagedFileError, "cannot be read as safetensors"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, kind: str, error: type[GHNError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(damaged(tmp_path, kind))
    assert "x.safetensors" in str(caught.value)


def test_files_that_are_no_hypernetwork(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match="does not exist"):
        load_checkpoint(tmp_path / "absent")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        UnsupportedFormatError, match=r"other\.safetensors: .*no 'embedding\.primitive\.weight'"
    ):
        load_checkpoint(tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UnsupportedFormatError, match="holds a list"):
        load_checkpoint(tmp_path / "list.pt")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    with pytest.raises(UnsupportedFormatError, match="no state dict of tensors"):
        load_checkpoint(tmp_path / "numbers.pt")
    torch.save(small(), tmp_path / "module.pt")
    with pytest.raises(UntrustedPickleError, match="GHN"):
        load_checkpoint(tmp_path / "module.pt")
    with pytest.raises(UnsupportedFormatError, match="is called 'foreign'"):
        from_released({"foreign": torch.zeros(1)})


def test_saving_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(small(), path)
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("ghn.models.storage.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(small("ghn2"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.golden
def test_golden_files_have_the_released_configurations(golden_root: Path) -> None:
    ghn3 = load_checkpoint(golden_root / "ghn3_h32_l3_k8_c1000.safetensors").config
    assert ghn3 == GHNConfig(hidden=32, decoder_channels=32)
    ghn2 = load_checkpoint(golden_root / "ghn2_h32_c1000.safetensors").config
    assert ghn2 == GHNConfig.variant("ghn2")


def test_exports() -> None:
    for name in ghn.__all__:
        assert getattr(ghn, name) is not None
        assert name in dir(ghn)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ghn.nonsense
