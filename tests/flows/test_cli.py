import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flows.commands import stages
from flows.commands.stages import register
from flows.params import read_yaml
from flows.stages import runner
from ghn import cli
from ghn.errors import ConfigError, DamagedFileError

ROOT = Path(__file__).resolve().parents[2]


def ghn(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ghn.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )


def test_help_lists_the_library_and_the_stages() -> None:
    result = ghn("--help")
    assert result.returncode == 0
    names = "init trace list generate evaluate report run experiments params mlflow"
    for command in names.split():
        assert f" {command} " in result.stdout


def test_starting_imports_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, ghn.cli; ghn.cli.add_commands(ghn.cli.app);heavy = {'torch', 'mlflow',"
        " 'prefect', 'pandas', 'matplotlib', 'sklearn', 'pyarrow'} &"
        " set(sys.modules);sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    ["init resnet18 --images digits --out w.safetensors", "compare resnet18 --images digits"],
)
def test_what_the_library_alone_lacks_is_one_line(arguments: str, tmp_path: Path) -> None:
    """With the packages of `requirements/core.lock` there is no pyarrow."""
    code = "import sys; sys.modules['pyarrow'] = None; from ghn.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("ghn: this needs pyarrow, which is not")
    assert "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("stage", read_yaml(ROOT / "dvc.yaml")["stages"])
def test_the_help_of_a_stage_names_its_parameters_and_outputs(stage: str) -> None:
    declared = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    declared = declared.get("do", declared)
    sections = {name.split(".")[0] for name in declared["params"]} - {"base"}
    outputs = [o for key in ("outs", "metrics", "plots") for o in declared.get(key, [])]
    names = [Path(o if isinstance(o, str) else next(iter(o))) for o in outputs]
    suffixes = {name.suffix for name in names if "}" not in name.suffix}
    app = typer.Typer()
    register(app)
    text = CliRunner().invoke(app, [stage, "--help"]).stdout
    assert {section for section in sections if section in text} == sections
    assert {suffix for suffix in suffixes if suffix in text} == suffixes
    assert str(names[0].parent).split("/")[0] in text


def test_run_says_what_continues_and_where_the_report_is(tmp_path: Path) -> None:
    for name in ("params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "f148b6").touch()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.html").symlink_to(cache / "f148b6")  # as DVC may keep outputs
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "dvc.yaml").write_text("stages:\n  fails:\n    cmd: exit 3\n")
    result = ghn("run", cwd=tmp_path, MLFLOW_TRACKING_URI=store)
    assert result.returncode != 0
    assert "the same command goes on from here" in " ".join(result.stdout.split())
    (tmp_path / "dvc.yaml").write_text("stages:\n  works:\n    cmd: echo\n")
    result = ghn("run", "works", cwd=tmp_path, MLFLOW_TRACKING_URI=store)
    assert result.returncode == 0, result.stderr
    assert f"report  {tmp_path / 'reports' / 'index.html'}\n" in result.stdout
    page = r"http://127\.0\.0\.1:5000/#/experiments/\d+/runs/\w+\?workflowType=machine_learning\n"
    assert re.search(page, result.stdout)


def test_run_ends_well_if_mlflow_goes_away_meanwhile(tmp_path: Path) -> None:
    for name in ("params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    (tmp_path / "results").mkdir()
    entry = {"architectures": 5, "mean": 0.25, "std": 0.1, "randinit_mean": 0.1, "randinit_std": 0}
    (tmp_path / "results" / "evaluation.json").write_text(json.dumps({"test": entry}))
    (tmp_path / "dvc.yaml").write_text("stages:\n  breaks:\n    cmd: echo broken > mlflow.db\n")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    result = ghn("run", "breaks", cwd=tmp_path, MLFLOW_TRACKING_URI=store)
    assert (tmp_path / "mlflow.db").read_text() == "broken\n"
    assert result.returncode == 0, result.stderr
    *_, models, told = result.stdout.splitlines()
    assert "25.0" in result.stdout
    assert f"report  {tmp_path / 'reports' / 'index.html'}\n" in result.stdout
    assert models.startswith("  models")
    assert told.startswith("MLflow does not say which stages ran")
    assert told.endswith("file is not a database.")


def test_run_finds_a_wrong_variant_before_any_stage_starts(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"variant: \S+", "variant: ghn4", text))
    (tmp_path / "dvc.yaml").write_text("stages:\n  first:\n    cmd: touch ran\n")
    result = ghn("run", cwd=tmp_path)
    assert result.returncode == 2
    assert "ghn4" in result.stderr
    assert "ghn3-t" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_version() -> None:
    assert ghn("--version").stdout.startswith("ghn 0.")


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["init"], ["trace", "resnet18", "--image-size", "x"]]
)
def test_wrong_usage_has_code_2_and_says_what(arguments: list[str]) -> None:
    result = ghn(*arguments)
    assert result.returncode == 2
    assert "Usage" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_architecture_has_code_2_and_names_it() -> None:
    result = ghn("trace", "resnet5o")
    assert result.returncode == 2
    assert "resnet5o" in result.stderr
    assert "Traceback" not in result.stderr


def test_trace_describes_a_graph() -> None:
    result = ghn("trace", "resnet18")
    assert result.returncode == 0
    assert result.stdout.startswith("resnet18: ")
    assert "conv" in result.stdout


def test_outside_the_tree_a_stage_says_where_to_run(tmp_path: Path) -> None:
    result = ghn("evaluate", cwd=tmp_path)
    assert result.returncode == 2
    assert "params.yaml does not exist" in result.stderr


def test_malformed_parameters_have_code_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("batch_size: 64", "batch_size: ten")
    )
    result = ghn("params", "check", cwd=tmp_path)
    assert result.returncode == 2
    assert "evaluate.batch_size = 'ten'" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_prints_all_parameters() -> None:
    result = ghn("params", "check", "--profile", "paper")
    assert result.returncode == 0, result.stderr
    assert "steps: 750000" in result.stdout


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("x = 3 is wrong"), 2, "ghn: x = 3 is wrong"),
        (DamagedFileError("a.h5 is damaged"), 1, "ghn: a.h5 is damaged"),
        (
            OSError(28, "No space left on device", "results/a.parquet"),
            1,
            "ghn: results/a.parquet: No space left on device",
        ),
        (KeyboardInterrupt(), 130, "ghn: interrupted"),
    ],
)
def test_errors_become_messages_and_codes(error: BaseException, code: int, text: str) -> None:
    app = typer.Typer(cls=cli._Group, pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(app, ["fail"])
    assert result.exit_code == code
    assert result.stderr.startswith(text)


def test_a_bug_keeps_its_traceback() -> None:
    app = typer.Typer(cls=cli._Group, pretty_exceptions_enable=False)

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(app, ["fail"]).exception, ZeroDivisionError)


@pytest.mark.parametrize("damage", ["absent", "truncated", "foreign"])
def test_a_missing_or_damaged_checkpoint_stops_a_stage_with_a_message(
    tmp_path: Path, damage: str
) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    weights = tmp_path / "models" / "ghn3" / "ghn.safetensors"
    weights.parent.mkdir(parents=True)
    if damage == "truncated":
        weights.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    elif damage == "foreign":
        weights.write_bytes(b"this is no checkpoint " * 10)
    (tmp_path / "results").mkdir()
    result = ghn("register", cwd=tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db")
    assert result.returncode in (1, 2)
    assert "models/ghn3/ghn.safetensors" in result.stderr
    assert ("`dvc repro train` makes it" in result.stderr) == (damage == "absent")
    assert "Traceback" not in result.stderr
    left = {path.name for path in (tmp_path / "results").iterdir()}
    assert left <= {".cache"}  # the lock of the stage


def test_sigterm_ends_a_stage_as_orderly_as_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def run(name: str, label: str | None) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            cleaned.append(name)

    monkeypatch.setattr(runner, "run_stage", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        stages.evaluate()
    assert ended.value.exit_code == 128 + signal.SIGTERM
    assert cleaned == ["evaluate"]
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_in_a_stage_leaves_no_half_output_and_says_so(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text().replace("size: 2000", "size: 300000")
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "ghn.cli", "generate", "--split", "train"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a suite in the background ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=environment,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("data/deepnets1m/.train*/*")) and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not (tmp_path / "data/deepnets1m/train.h5").exists()
    # The log of the stage says so too: in the store, or still waiting to be sent.
    spooled = "".join(path.read_text() for path in (tmp_path / ".mlflow-spool").glob("*.jsonl"))
    if '"KILLED"' not in spooled:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.get_experiment_by_name("ghn3")
        assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == [
            "KILLED"
        ]


def test_sigterm_has_its_exit_code_wherever_it_comes(tmp_path: Path) -> None:
    """Python is interrupted within an `exec`, as when a dataclass is made at import."""
    code = (
        "import sys\n"
        "from flows.commands import stages\n"
        "from flows.stages import runner\n"
        "text = 'import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)'\n"
        "runner.run_stage = lambda name, label: exec(text)\n"
        "try:\n"
        "    stages.run_stage('images')\n"
        "except stages.typer.Exit as end:\n"
        "    sys.exit(end.exit_code)\n"
    )
    (tmp_path / "one_stage.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "one_stage"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "ended by SIGTERM" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_compiled_code_turns_into_an_error_is_still_a_signal(
    number: int, tmp_path: Path
) -> None:
    """pydantic makes a `SchemaError` of an interruption while it builds a class, at import."""
    code = (
        "import os, signal\n"
        "from pydantic_core import SchemaValidator, core_schema\n"
        "from flows.stages import runner\n"
        "from ghn import cli\n"
        "class Interrupted:\n"
        "    def __repr__(self):\n"
        f"        os.kill(os.getpid(), {number})\n"
        "        return ''.join(str(place) for place in range(1000))\n"
        "def run(name, label):\n"
        "    SchemaValidator(core_schema.literal_schema([Interrupted()]))\n"
        "runner.run_stage = run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite may ignore it\n"
        "cli.add_commands(cli.app)\n"
        "cli.app(['images'])\n"
    )
    (tmp_path / "one_stage.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "one_stage.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert "the same command" in done.stderr
