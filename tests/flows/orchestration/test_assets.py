"""Lineage from dvc.yaml."""

from __future__ import annotations

from pathlib import Path

from flows.orchestration.assets import asset, lineage
from flows.params import load_params
from flows.settings.dvcfile import read_stages

ROOT = Path(__file__).resolve().parents[3]


def test_everything_that_a_stage_of_the_pipeline_reads_is_made_or_kept_in_git() -> None:
    tree = load_params(ROOT / "params.yaml").tree()
    stages = read_stages(tree, ROOT / "dvc.yaml")
    all_lineage = {stage: lineage(stages, stage, "ghn3") for stage in stages}
    made = {key.key for written, _ in all_lineage.values() for key in written}
    read = {key.key for _, sources in all_lineage.values() for key in sources}
    assert read - made == {"dvc://ghn3/ghn/pretrained/ghn3-cifar10.safetensors"} & read
    validated = {key.key for key in all_lineage["validate"][1]}
    assert {f"dvc://ghn3/data/deepnets1m/{split}.h5" for split in ("train", "bnfree")} <= validated
    assert not [key for key in read | made if key.endswith(".py")]


def test_any_path_has_a_key() -> None:
    key = asset("data/images//srv/my images #1 (50 %)", "ghn3@all-20261127").key
    assert key == "dvc://ghn3@all-20261127/data/images//srv/my-images--1--50---"
    assert len(asset("x" * 2000, "ghn3").key) == 512
