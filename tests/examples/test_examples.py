"""The examples run as their first lines say, at a size of seconds, and come to the end of their
story.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from flows.serving.package import package

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of fifteen small pictures: horizontal and vertical stripes in noise."""
    random = np.random.default_rng(0)
    for label in ("horizontal", "vertical"):
        directory = tmp_path / "stripes" / label
        directory.mkdir(parents=True)
        for number in range(15):
            pixels = random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            stripes = pixels if label == "horizontal" else pixels.transpose(1, 0, 2)
            stripes[::4] += 150
            Image.fromarray(pixels).save(directory / f"{number}.png")
    return tmp_path / "stripes"


def run(name: str, *arguments: object, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_initialise_your_network(tmp_path: Path) -> None:
    said = run("initialise_your_network.py", cwd=tmp_path)
    assert "13 nodes: input, conv," in said
    assert "predicted 29,418 of 29,418 numbers" in said
    assert not list(tmp_path.iterdir())


def test_better_than_random_on_a_folder_of_images(tmp_path: Path, folder: Path) -> None:
    said = run("better_than_random.py", folder, "shufflenet_v2_x0_5", 1, 1, cwd=tmp_path)
    assert "shufflenet_v2_x0_5 on stripes" in said
    assert "2 classes" in said
    rows = re.findall(r"^(predicted|random|orthogonal) +(\S+)% +(\S+)%", said, re.MULTILINE)
    assert [kind for kind, *_ in rows] == ["predicted", "random", "orthogonal"]
    assert all(0 <= float(value) <= 100 for _, *values in rows for value in values)


def test_own_network_own_images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("dark", "light"):  # 120 images
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 150, (20, 24, 3), dtype=np.uint8) + 100 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "images" / label / f"{number}.png"
            )
    said = run("own_network_own_images.py", tmp_path / "images", 6, 2, cwd=tmp_path)
    assert "SmallCNN: predicted 28,898 of 28,898 numbers" in said
    assert "warning: it has 2 classes, the hypernetwork was trained for 10" in said
    assert "86 training and 24 test images, 2 classes" in said
    rows = re.findall(r"^(predicted|random|orthogonal) +(\S+)% untrained", said, re.MULTILINE)
    assert [kind for kind, _ in rows] == ["predicted", "random", "orthogonal"]
    assert re.search(
        r"predicted .*random (parameters|ones) \(.* points, standard error", said, re.I
    )


def test_adapt_a_hypernetwork(tmp_path: Path) -> None:
    run("adapt_a_hypernetwork.py", "digits", 6, "adapted", cwd=tmp_path)
    again = run("adapt_a_hypernetwork.py", "digits", 6, "adapted", cwd=tmp_path)
    assert re.search(r"before: .*%\nafter 6 steps: .*%, in adapted/ghn.safetensors", again)


def test_train_a_hypernetwork(tmp_path: Path) -> None:
    said = run("train_a_hypernetwork.py", 6, "trained", 16, cwd=tmp_path)
    assert len(re.findall(r"^\d+\.\d%$", said, re.MULTILINE)) == 5
    assert (tmp_path / "trained" / "run" / "ghn.safetensors").is_file()


@pytest.fixture
def registry(tmp_path: Path) -> str:
    """A registry in a file, with the hypernetwork of the package as its champion."""
    address = f"sqlite:///{tmp_path / 'registry.db'}"
    weights = tmp_path / "ghn.safetensors"
    shutil.copy(ROOT / "ghn" / "pretrained" / "ghn3-cifar10.safetensors", weights)
    client = mlflow.MlflowClient(address)
    experiment = client.create_experiment("test", (tmp_path / "artifacts").as_uri())
    made = client.create_run(experiment)
    client.log_metric(made.info.run_id, "predicted_mean", 0.351)
    client.log_artifacts(made.info.run_id, str(package(weights, tmp_path / "model")), "model")
    client.create_registered_model("ghn3")
    source = f"{made.info.artifact_uri}/model"
    version = client.create_model_version(
        "ghn3", source, made.info.run_id, tags={"data": "cifar10"}
    )
    client.set_registered_model_alias("ghn3", "champion", version.version)
    return address


def test_read_the_registry(tmp_path: Path, registry: str) -> None:
    said = run("read_the_registry.py", cwd=tmp_path, MLFLOW_TRACKING_URI=registry)
    assert "ghn3 version 1 @champion\n    data: cifar10" in said
    assert "predicted_mean 0.351" in said
    assert "models:/ghn3@champion predicts 11," in said


def test_a_registry_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not exist"):
        run("read_the_registry.py", cwd=tmp_path, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert not list(tmp_path.iterdir())


def test_serve_and_ask(tmp_path: Path) -> None:
    said = run("serve_and_ask.py", cwd=tmp_path)
    assert re.search(r"11,173,962 numbers in \d+ tensors, 11,173,962 predicted", said)
    assert "618 numbers in 4 tensors, 618 predicted" in said


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_has_a_test(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text().splitlines()) <= 60
    assert f'"{name}"' in Path(__file__).read_text()
