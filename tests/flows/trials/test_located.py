"""A name that comes to mean other weights is noticed, without loading any."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.settings import paths
from flows.trials.located import source_stamp, weights_stamp
from ghn.names import packaged


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("init", "file"),
    [
        ("g", paths.weights("g")),
        ("g+orth3", paths.weights("g")),
        ("./w.safetensors", Path("w.safetensors")),
        ("dir/of", Path("dir/of/model.safetensors")),
        ("selection=vit.pt", Path("vit.pt")),
    ],
)
def test_files_count_by_their_content(init: str, file: Path) -> None:
    write(file, "one")
    first = weights_stamp(init)
    assert first is not None
    assert weights_stamp(init) == first
    write(file, "two")
    assert weights_stamp(init) not in (first, None)
    write(file, "one")
    assert weights_stamp(init) == first


def test_what_comes_and_goes() -> None:
    assert weights_stamp("selection=vit.pt") is None
    assert weights_stamp("gradinit") == "gradinit"
    assert weights_stamp("hf://owner/repository/file") == "hf://owner/repository/file"
    ours = weights_stamp("ghn3-cifar10")
    shutil.copyfile(packaged()["ghn3-cifar10"], "same")
    assert weights_stamp("./same") == ours
    write(paths.weights("ghn3-cifar10"), "one of the tree comes first")
    assert weights_stamp("ghn3-cifar10") != ours
    assert source_stamp("ghn3-cifar10") == ours  # what from_pretrained loads


def test_an_alias_is_what_it_points_to() -> None:
    from mlflow import MlflowClient

    assert weights_stamp("models:/g@champion") is None  # there is no registry yet
    client = MlflowClient()
    client.create_registered_model("g")
    for number in ("1", "2"):
        client.create_model_version("g", f"file:///nowhere/{number}")
    assert weights_stamp("models:/g@champion") is None
    client.set_registered_model_alias("g", "champion", "1")
    first = weights_stamp("models:/g@champion")
    assert first is not None
    assert weights_stamp("models:/g@champion") == weights_stamp("models:/g/1") == first
    client.set_registered_model_alias("g", "champion", "2")
    assert weights_stamp("models:/g@champion") == weights_stamp("models:/g/2") != first
    assert weights_stamp("models:/g/3") is None
    assert weights_stamp("models:/g/latest") == weights_stamp("models:/g/2")
    client.create_model_version("g", "file:///nowhere/3")
    assert weights_stamp("models:/g/latest") == weights_stamp("models:/g/3") is not None
