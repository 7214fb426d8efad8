"""Saved predictions are outputs like the rows that name them: made again if they are not as they
were written, gone when nobody asks for them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.generation.generate import generate_split
from flows.rows.schema import read_rows
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.base import BaseConfig
from flows.settings.dvcfile import read_stages
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig
from flows.settings.predict import PredictConfig
from flows.stages import predict
from flows.tracking import stage_run
from ghn.checkpoint import save_checkpoint
from ghn.files import sha256
from ghn.models import GHN, GHNConfig

ROOT = Path(__file__).resolve().parents[2]


def run(save: bool) -> list[dict]:
    with stage_run("predict", {}, connect_after_seconds=1e9) as stage:
        predict.run(
            BaseConfig(ghn="g", device="cpu"),
            FanOut(workers=1),
            ImagesConfig(name="digits", image_size=16),
            ArchitecturesConfig(splits=("test",), torchvision=()),
            PredictConfig(save=save),
            stage,
        )
    return read_rows(paths.PREDICTIONS)


def test_saved_files_are_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rules = {"size": 3, "n_cells": (4, 5), "steps": (1, 2)}
    generate_split(paths.DEEPNETS, "test", GenerateConfig(splits={"test": rules}), 1, map)
    torch.manual_seed(0)
    fields = GHNConfig.variant("ghn3-t", 10).to_dict() | {"layers": 1, "hidden": 16}
    save_checkpoint(GHN(GHNConfig.from_dict(fields)), paths.weights("g"))

    rows = run(save=True)
    files = [Path(row["file"]) for row in rows]
    assert sorted(p for p in predict.PREDICTED.rglob("*") if p.is_file()) == sorted(files)
    assert [row["sha256"] for row in rows] == [sha256(file) for file in files]

    content = files[1].read_bytes()
    files[0].unlink()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    kept = files[2].stat().st_mtime_ns
    stray = predict.PREDICTED / "deepnets1m" / "stray.safetensors"
    stray.write_bytes(b"of another run")
    assert run(save=True) == rows
    assert [row["sha256"] for row in rows] == [sha256(file) for file in files]
    assert files[2].stat().st_mtime_ns == kept  # it was whole
    assert not stray.exists()

    assert {row["file"] for row in run(save=False)} == {None}
    assert not any(path.is_file() for path in predict.PREDICTED.rglob("*"))


def test_dvc_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    from flows.params import load_params

    stages = read_stages(load_params().tree())
    assert predict.PREDICTED.as_posix() in stages["predict"].outputs
