"""Stages of the pipeline, and `ghn init`, where there is a card; `GHN_GPU_TESTS=cpu` tries them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mlflow", reason="the pipeline's packages are not here")
pytest.importorskip("dvc_data", reason="the pipeline's packages are not here")

import pyarrow.parquet as pq
from typer.testing import CliRunner

from flows.params import Params, load_params
from flows.settings import paths
from flows.stages import evaluate, finetune, generate, images, predict, train
from flows.stages.runner import start
from flows.tracking import stage_run
from ghn.cli import app
from ghn.files import read_safetensors

NAME = os.environ.get("GHN_GPU_TESTS", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        NAME == "cuda" and not torch.cuda.is_available(),
        reason="no CUDA device here; GHN_GPU_TESTS=cpu tries the tests on a CPU",
    ),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The tiny profile, device auto, in an empty tree."""
    loaded = load_params(ROOT / "params.yaml", "tiny")
    monkeypatch.chdir(tmp_path)
    tree = loaded.model_dump(by_alias=True)
    tree["base"]["device"] = "auto"
    rules = {"n_cells": (4, 5), "steps": (1, 2), "max_multiply_adds": 1.5e7}
    tree["generate"]["splits"] = {
        name: {"size": size, **rules} for name, size in (("train", 12), ("val", 3), ("test", 3))
    }
    tree["architectures"] |= {"splits": ["test"], "per_split": 2, "torchvision": ["resnet18"]}
    tree["fanout"]["workers"] = 1
    return Params.model_validate(tree)


def _stage(name: str, run: Callable[..., None], params: Params, **more: Any) -> None:
    with stage_run(name, {}, connect_after_seconds=1e9) as tracked:
        start(run, params, tracked, **more)


def test_stages_from_architectures_to_fine_tuning(params: Params) -> None:
    before = torch.cuda.memory_stats().get("allocation.all.allocated", 0) if NAME == "cuda" else 0
    for split in ("train", "val", "test"):
        _stage("generate", generate.run, params, split=split)
    for name, run in (
        ("images", images.run),
        ("train", train.run),
        ("predict", predict.run),
        ("evaluate", evaluate.run),
        ("finetune", finetune.run),
    ):
        _stage(name, run, params)
    assert paths.weights(params.base.ghn).exists()
    for name in ("prediction", "evaluation", "finetune"):
        rows = pq.read_table(_result(name)).to_pylist()
        assert rows, name
        assert [row["error"] for row in rows if row.get("error")] == [], name
    if NAME == "cuda":
        assert torch.cuda.memory_stats()["allocation.all.allocated"] > before


def _result(name: str) -> Path:
    (found,) = paths.RESULTS.glob(f"{name}*.parquet")
    return found


def test_init_on_the_card_writes_what_the_cpu_writes(tmp_path: Path) -> None:
    files = {}
    for device in ("cpu", NAME):
        files[device] = tmp_path / f"{device}.safetensors"
        options = ["--device", device, "--classes", "10", "--image-size", "32"]
        said = CliRunner().invoke(app, ["init", "resnet18", *options, "-o", str(files[device])])
        assert said.exit_code == 0, said.output
    expected, found = (read_safetensors(files[device])[0] for device in ("cpu", NAME))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
