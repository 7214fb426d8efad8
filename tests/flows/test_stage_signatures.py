"""A stage gets the sections of params.yaml that it is declared to depend on."""

import importlib
from pathlib import Path

import pytest
import yaml

from flows.settings.dvcfile import read_stages
from flows.stages.runner import sections_of

ROOT = Path(__file__).resolve().parents[2]
STAGES = read_stages(yaml.safe_load((ROOT / "params.yaml").read_text()), ROOT / "dvc.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_sections_of_a_stage_are_those_of_dvc_yaml(name: str) -> None:
    module = importlib.import_module(f"flows.stages.{name.split('@')[0]}")
    declared = {param.split(".")[0] for param in STAGES[name].params}
    # Where work is done decides nothing of its results.
    assert set(sections_of(module.run)) - {"fanout"} == declared
