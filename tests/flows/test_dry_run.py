"""`ghn run --dry`: what DVC would do, told without doing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from flows.commands import run
from flows.commands.plan import picture, plan
from flows.commands.stages import register
from flows.params import load_params
from flows.settings.dvcfile import read_stages
from ghn import cli

ROOT = Path(__file__).resolve().parents[2]
STAGES = {
    "make": {
        "foreach": "${names}",
        "do": {"cmd": "echo ${key} > made/${key}", "outs": ["made/${key}"], "params": ["size"]},
    },
    "join": {"cmd": "cat made/* > joined", "deps": ["made"], "outs": ["joined"]},
    "use": {"cmd": "cp joined used", "deps": ["joined"], "outs": ["used"]},
}
TREE = {"names": {"a": {}, "b": {}}, "size": 1}


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "-q", *arguments], check=True)


@pytest.mark.slow  # DVC starts five times
def test_the_plan_names_what_runs_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TREE))
    (tmp_path / "made").mkdir()
    assert all(step.why for step in plan(TREE))
    dvc("repro")
    assert [step.why for step in plan(TREE)] == ["", "", "", ""]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**TREE, "size": 2}))
    (tmp_path / "used").unlink()
    found = {step.name: step for step in plan(TREE)}
    assert found["make@a"].why == found["make@b"].why == "size modified"
    assert found["join"].after == ("make",)
    assert found["join"].why == "after make"
    assert found["use"].why == "used is not there"


def test_a_tree_without_outputs_is_not_asked_whether_it_is_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = load_params(ROOT / "params.yaml")
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    asked = []

    def status(*arguments: str, silent: bool) -> int:
        asked.append(arguments)
        return 0

    monkeypatch.setattr(run, "dvc", status)
    monkeypatch.setattr(run, "_look_at_sources", lambda _: asked.append(("sources",)))
    assert not run._is_up_to_date(params)
    assert not asked
    for stage in read_stages(params.tree()).values():
        for output in map(Path, stage.outputs):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
    assert run._is_up_to_date(params)
    assert asked[0] == ("sources",)
    assert "sources" not in asked[1]


def test_the_picture_of_the_stages_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    tree = load_params().tree()
    drawn = picture(tree).splitlines()
    assert max(map(len, drawn)) <= 80
    names = [" ".join(line.replace("*", " ").split()) for line in drawn if "| " in line]
    assert names[0] == "| sources | | generate |"
    assert names[-1] == "| report |"
    assert {f"| {name.partition('@')[0]} |" for name in read_stages(tree)} <= {
        f"|{box}|" for line in names for box in line.split("|")
    }


def test_stages_are_listed_after_those_that_they_wait_for() -> None:
    tree = load_params(ROOT / "params.yaml").tree()
    stages = list(read_stages(tree, ROOT / "dvc.yaml").values())
    made: set[str] = {out for stage in stages for out in stage.outputs}
    seen: set[str] = set()
    for stage in stages:
        assert not {path for path in stage.inputs if path in made} - seen
        seen |= set(stage.outputs)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--steps", "10"], "`ghn run train -S train.steps=10`"),
        (["train", "--steps=10"], "`ghn run train -S train.steps=10`"),
        (["evaluate", "--batch-size"], "-S evaluate.batch_size=VALUE`"),
        (["validate", "--quickly"], "`ghn params describe validate`"),
    ],
)
def test_an_option_that_a_stage_lacks_is_answered_with_the_field(
    arguments: list[str], told: str
) -> None:
    app = typer.Typer(cls=cli._Group)
    register(app)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert told in result.output
