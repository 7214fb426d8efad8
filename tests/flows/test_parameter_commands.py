"""`ghn params`, `ghn run -S`, what a wheel says of the pipeline, and completion."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.commands.parameters import assignments
from flows.commands.run import _check_targets
from flows.commands.stages import register
from flows.params import Params, load_params, set_params
from flows.settings import paths
from flows.settings.describe import fields, is_field
from ghn import cli
from ghn.errors import ConfigError
from ghn.locks import locked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(cls=cli._Group)
    register(made)
    return made


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_field_can_be_set(tree: Path) -> None:
    """Also where params.yaml leaves it at its default."""
    before = load_params()
    tree_before = before.tree()
    names = [field.name for field in fields(Params)]
    assert len(names) > 100
    values = {}
    for name in names:
        value = tree_before
        for part in name.split("."):
            value = value[part]
            if value is None:  # an optional section as a whole
                break
        else:
            values[name] = value
    assert len(values) > 100
    assert assignments([f"{name}={json.dumps(value)}" for name, value in values.items()]) == values
    assert set_params(values) == before == load_params()
    text = Path("params.yaml").read_text()
    assert "  val_fraction: 0.1" in text
    assert "# an epoch of digits" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("train.stepz=3", "nearest: train.steps"),
        ("train.steps", "write FIELD=VALUE"),
        ("nonsense.x=3", "is no field"),
        ("train.steps.x=3", "is no field"),
        ("train.steps=[", "is not YAML"),
    ],
)
def test_a_wrong_assignment_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assignments([given])


def test_below_a_mapping_any_name_is_a_field() -> None:
    assert is_field(Params, "generate.splits.mine")
    assert is_field(Params, "train.steps")
    assert not is_field(Params, "train.nothing")


def test_set_checks_before_it_writes(app: typer.Typer, tree: Path) -> None:
    before = Path("params.yaml").read_text()
    refused = CliRunner().invoke(app, ["params", "set", "train.steps=many"])
    assert refused.exit_code == 2
    assert "train.steps" in refused.stderr
    assert Path("params.yaml").read_text() == before
    assert CliRunner().invoke(app, ["params", "set", "train.steps=1000"]).exit_code == 0
    assert load_params().train.steps == 1000


@pytest.mark.parametrize("command", [("set", "train.steps=1000"), ("use", "tiny")])
def test_parameters_are_not_written_under_a_run(
    app: typer.Typer, tree: Path, command: tuple[str, ...]
) -> None:
    before = Path("params.yaml").read_text()
    with locked(paths.TREE_LOCK):
        refused = CliRunner().invoke(app, ["params", *command])
    assert refused.exit_code == 2
    assert "params.yaml is in use: a run works in this tree" in refused.stderr
    assert Path("params.yaml").read_text() == before
    assert CliRunner().invoke(app, ["params", *command]).exit_code == 0
    assert Path("params.yaml").read_text() != before


def test_a_run_writes_its_parameters_when_the_one_before_has_ended(tree: Path) -> None:
    """As it finds them then: those that the other run was given stay."""
    (tree / ".dvc").mkdir()
    (tree / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    (tree / "dvc.yaml").write_text("stages:\n  fails:\n    cmd: exit 3\n")
    before = Path("params.yaml").read_text()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "http://[no"}
    command = [sys.executable, "-m", "ghn.cli", "run", "-S", "train.steps=1000"]
    with locked(paths.TREE_LOCK):
        wrong = subprocess.run(
            [*command, "-S", "base.seed=x"], env=environment, capture_output=True, text=True
        )
        assert wrong.returncode == 2  # at once
        assert "base.seed" in wrong.stderr
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "waiting until it has ended" in process.stdout.readline()
        assert Path("params.yaml").read_text() == before
        set_params({"base.seed": 77})
    process.communicate(timeout=300)
    assert load_params().train.steps == 1000
    assert load_params().base.seed == 77


def test_a_profile_takes_the_header_of_the_laptop_profile_away(
    app: typer.Typer, tree: Path
) -> None:
    for _ in range(2):
        assert CliRunner().invoke(app, ["params", "use", "tiny"]).exit_code == 0
        text = Path("params.yaml").read_text()
        assert text.startswith("# The values of params/tiny.yaml over")
        assert "half an hour" not in text
        assert text.index("base:") < 300


def test_only_what_is_set_changes(tree: Path) -> None:
    before = Path("params.yaml").read_text().splitlines()
    set_params({"base.seed": 77})
    after = Path("params.yaml").read_text().splitlines()
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("  seed: 1", "  seed: 77")]


def test_a_profile_takes_the_place_of_the_one_before(tree: Path) -> None:
    laptop = Path("params.yaml").read_text()
    of_gpu = load_params(profile="gpu")
    set_params({}, "tiny")
    tiny = Path("params.yaml").read_text()
    with pytest.raises(ConfigError, match="the values of profile tiny, and git has none"):
        set_params({}, "gpu")  # no git
    assert Path("params.yaml").read_text() == tiny
    Path("params.yaml").write_text(laptop)
    git = ("git", "-c", "user.name=test", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "params.yaml"), ("commit", "-qm", "laptop")):
        subprocess.run([*git, *command], check=True)
    set_params({"train.steps": 7}, "tiny")
    assert set_params({}, "tiny").train.steps == 8
    assert set_params({"images.name": "photos"}, "gpu").images.name == "photos"
    assert set_params({}, "gpu") == of_gpu == load_params()
    assert set_params({}, "laptop") == load_params()
    assert Path("params.yaml").read_text() == laptop
    assert set_params({"base.seed": 3}, "laptop").base.seed == 3  # as it is, and the value


def test_words_that_yaml_reads_otherwise_keep_their_quotes(app: typer.Typer, tree: Path) -> None:
    done = CliRunner().invoke(app, ["params", "set", "train.amp=off", "train.lr=1e-3"])
    assert done.exit_code == 0, done.output
    assert load_params().train.amp == "off"
    assert load_params().train.lr == 1e-3


def test_types_are_told_without_their_checks() -> None:
    kinds = {field.name: field.kind for field in fields(Params)}
    assert kinds["finetune.grid.lr"] == "tuple[float, ...]"
    assert kinds["train.betas"] == "tuple[float, float]"
    assert kinds["architectures.torchvision"] == "Literal['all'] | tuple[str, ...]"
    assert kinds["transfer.architectures"] == "tuple[str, ...] | None"
    assert not [kind for kind in kinds.values() if "Annotated" in kind or ")" in kind]


def test_describe_and_schema_name_every_field(app: typer.Typer) -> None:
    said = CliRunner().invoke(app, ["params", "describe", "train"]).stdout
    assert "train.steps: int = 10000\n    optimizer steps" in said
    assert "images.name" not in said
    described = json.loads(CliRunner().invoke(app, ["params", "describe", "--json"]).stdout)
    assert len(described) == len({field["name"] for field in described}) > 100
    schema = json.loads(CliRunner().invoke(app, ["params", "schema"]).stdout)
    assert {"base", "validate", "register"} <= schema["properties"].keys()
    unknown = CliRunner().invoke(app, ["params", "describe", "trian"])
    assert unknown.exit_code == 2


def test_a_stage_that_does_not_exist_names_the_nearest(tree: Path) -> None:
    _check_targets(["train", "generate@test"])
    with pytest.raises(ConfigError, match="nearest: evaluate"):
        _check_targets(["evalaute"])


def test_the_commands_of_a_checkout_are_those_that_a_wheel_says_it_lacks(app: typer.Typer) -> None:
    added = {command.name for command in app.registered_commands}
    added |= {group.name for group in app.registered_groups}
    assert {*cli.PIPELINE} == added - {"init", "trace"}
    done = CliRunner().invoke(cli.app, ["compare"])  # the library alone
    assert done.exit_code == 2
    assert "`compare` is part of the pipeline" in done.stderr
    assert "clone the repository" in done.stderr


def test_the_code_names_commands_that_exist(app: typer.Typer) -> None:
    """In descriptions of fields, errors, help and docstrings."""
    known = {*typer.main.get_command(cli.app).commands, *typer.main.get_command(app).commands}
    named = {
        (path.relative_to(ROOT).as_posix(), name)
        for package in ("ghn", "datasets", "flows")
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"`ghn ([a-z]+)", path.read_text())
    }
    assert {(path, name) for path, name in named if name not in known} == set()


def test_options_of_one_name_mean_one_thing(app: typer.Typer) -> None:
    """Each long option has one short form, and `--json` and `--out` are called so everywhere."""
    shorts: dict[str, set[str]] = {}
    root = typer.main.get_command(app)
    stack = [root]
    while stack:
        command = stack.pop()
        stack += getattr(command, "commands", {}).values()
        for parameter in command.params:
            names = [name for name in parameter.opts if name.startswith("-")]
            for name in (name for name in names if name.startswith("--")):
                shorts.setdefault(name, set()).add(" ".join(sorted({*names} - {name})))
    assert not {name: found for name, found in shorts.items() if len(found) > 1}
    assert not {"--output", "--num-classes", "--size", "--source", "--checkpoint"} & shorts.keys()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ghn init resnet1", "resnet18"),
        ("ghn init timm/resnet1", "timm/resnet18"),
        ("ghn init x --from ghn3", "ghn3-cifar10"),
        ("ghn run eval", "evaluate"),
        ("ghn params use pa", "paper"),
        ("ghn params set train.st", "train.steps"),
        ("ghn registry show @ch", "@champion"),
        ("ghn trace va", "val"),
        ("ghn comp", "compare"),
    ],
)
def test_the_shell_completes(words: str, expected: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_GHN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; sys.argv = ['ghn']; from ghn.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert expected in re.split(r"\s+", done.stdout), done.stderr
