import json
from pathlib import Path

import pytest
import yaml

from flows.orchestration.order import upstream
from flows.params import Params
from flows.settings.dvcfile import read_stages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_stages_agree_with_dvc(tree: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(ROOT)
    ours = read_stages(tree)
    with Repo(str(ROOT)) as repo:
        theirs = {
            stage.addressing: stage
            for stage in repo.index.stages
            if Path(stage.path) == ROOT / "dvc.yaml"
        }
        assert set(ours) == set(theirs)
        for name, stage in theirs.items():
            outs = {Path(out.fspath).relative_to(ROOT).as_posix() for out in stage.outs}
            assert set(ours[name].outputs) == outs, name
            uncached = {
                Path(out.fspath).relative_to(ROOT).as_posix()
                for out in stage.outs
                if not out.use_cache
            }
            assert set(ours[name].uncached) == uncached, name
            deps = {
                Path(dep.fspath).relative_to(ROOT).as_posix()
                for dep in stage.deps
                if not hasattr(dep, "params")
            }
            assert set(ours[name].inputs) | set(ours[name].code) == deps, name
            assert ours[name].cmd == stage.cmd


def test_parameters_that_stages_depend_on_exist(tree: dict) -> None:
    params = Params.model_validate(tree).tree()
    for stage in read_stages(tree).values():
        assert stage.used_params(tree), stage.name
        stage.used_params(params)


def test_code_dependencies_exist(tree: dict) -> None:
    for stage in read_stages(tree).values():
        assert [path for path in stage.code if not (ROOT / path).exists()] == [], stage.name


def test_every_stage_is_a_command(tree: dict) -> None:
    import typer

    from flows.commands.stages import register

    app = typer.Typer()
    register(app)
    commands = {command.name for command in app.registered_commands}
    assert {stage.cmd.split()[1] for stage in read_stages(tree).values()} <= commands


def test_order_follows_from_files(tree: dict) -> None:
    before = upstream(read_stages(tree))
    assert before["generate@test"] == set()
    assert "generate@bnfree" in before["predict"]  # it depends on the directory
    assert before["train"] >= {"generate@train", "images", "validate"}
    assert {"predict", "evaluate", "finetune", "transfer"} <= before["report"]


def test_a_split_depends_on_the_rules_of_all(tree: dict) -> None:
    """`train` has no architecture of an evaluation split, so that their rules are its input."""
    stages = read_stages(tree)
    changed = json.loads(json.dumps(tree))
    changed["generate"]["splits"]["test"]["size"] = 7
    for name, stage in stages.items():
        if name.startswith("generate@"):
            assert stage.used_params(tree) != stage.used_params(changed), name


def test_stages_read_the_splits_that_they_use(tree: dict) -> None:
    """A further split is none of theirs; the directory is for those that look at all of it."""
    splits = {f"data/deepnets1m/{name}.h5" for name in ("test", "wide", "deep", "dense", "bnfree")}
    for name, stage in read_stages(tree).items():
        if "data/deepnets1m" in stage.inputs:
            assert name in ("validate", "report")
        elif name in ("predict", "evaluate", "finetune", "transfer", "register"):
            read = {path for path in stage.inputs if path.endswith(".h5")}
            assert read == splits
            assert {path.replace(".h5", ".parquet") for path in read} <= {*stage.inputs}


@pytest.mark.parametrize(
    "template", sorted((ROOT / ".dvc" / "plots").glob("*.json")), ids=lambda path: path.stem
)
def test_plot_templates_take_the_data_as_vega_lite_wants_it(template: Path) -> None:
    """DVC puts a list of rows in the anchor's place; given bare as `data`, every plot stays
    empty.
    """
    assert json.loads(template.read_text())["data"] == {"values": "<DVC_METRIC_DATA>"}


def test_plots_of_the_pipeline_name_templates_that_exist() -> None:
    own = {path.stem for path in (ROOT / ".dvc" / "plots").glob("*.json")}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    named = {
        options["template"]
        for stage in stages
        for plot in stage.get("plots", ())
        for options in plot.values()
        if "template" in options
    }
    assert named == own
