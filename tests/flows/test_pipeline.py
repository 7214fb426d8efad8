"""The pipeline's graph from dvc.yaml, and its parts that need no server."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel

from flows.orchestration import crashes, tasks
from flows.orchestration.artifacts import summary
from flows.orchestration.errors import StageFailedError
from flows.orchestration.limits import HEARTBEAT_SECONDS
from flows.orchestration.order import needed, upstream
from flows.params import load_params
from flows.settings.dvcfile import Declaration, read_stages

ROOT = Path(__file__).resolve().parents[2]


def stage(name: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> Declaration:
    return Declaration(name, "true", (), inputs, (), outputs)


STAGES = {
    s.name: s
    for s in (
        stage("report", ("results",)),
        stage("generate@train", (), ("data/train.h5",)),
        stage("generate@test", (), ("data/test.h5",)),
        stage("train", ("data/train.h5",), ("models/ghn.safetensors",)),
        stage("evaluate", ("data", "models/ghn.safetensors"), ("results/evaluation.parquet",)),
    )
}


def test_a_file_in_a_directory_counts_and_the_reverse():
    assert upstream(STAGES) == {
        "generate@train": set(),
        "generate@test": set(),
        "train": {"generate@train"},
        "evaluate": {"generate@train", "generate@test", "train"},
        "report": {"evaluate"},
    }


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([], {"generate@train", "generate@test", "train", "evaluate", "report"}),
        (["train"], {"generate@train", "train"}),
        (["generate"], {"generate@train", "generate@test"}),
        (["generate@test"], {"generate@test"}),
    ],
)
def test_targets_bring_what_they_need(targets, expected):
    order = needed(upstream(STAGES), targets)
    assert set(order) == expected
    assert all(
        order.index(source) < order.index(name)
        for name in order
        for source in upstream(STAGES)[name]
    )


def test_an_unknown_target_is_named_with_the_known_ones():
    with pytest.raises(
        StageFailedError, match=r"no stage trian in dvc\.yaml; there are report, generate@train"
    ):
        needed(upstream(STAGES), ["trian"])


@pytest.mark.parametrize(
    ("code", "killed"),
    [
        (0, False),
        (1, False),
        (2, False),
        (130, False),
        (-2, False),
        (255, False),
        (137, True),
        (-9, True),
        (143, True),
    ],
)
def test_only_ends_by_a_signal_other_than_ctrl_c_are_worth_retrying(code, killed):
    assert tasks._killed(code) is killed


def test_the_summary_names_every_stage(tmp_path):
    rows = [{"stage": "train", "state": "Unchanged", "seconds": "0.1"}]
    assert "| train | Unchanged | 0.1 |" in summary(rows, tmp_path)


@pytest.mark.parametrize(
    ("state", "shown"), [("Unchanged", True), ("Failed", False), (None, False)]
)
def test_the_summary_shows_accuracies_of_its_own_run_only(tmp_path, state, shown):
    (tmp_path / "results").mkdir()
    entry = {
        "architectures": 5,
        "mean": 0.25,
        "std": 0.1,
        "randinit_mean": 0.1,
        "randinit_std": 0.05,
    }
    (tmp_path / "results" / "evaluation.json").write_text(json.dumps({"test": entry}))
    rows = [{"stage": "evaluate", "state": state, "seconds": ""}] if state else []
    assert (
        "| test | 5 | 25.0 ± 10.0\N{NO-BREAK SPACE}% | 10.0 ± 5.0\N{NO-BREAK SPACE}% |"
        in summary(rows, tmp_path)
    ) == shown


@pytest.mark.parametrize(
    ("states", "hours", "refused"),
    [
        (["CRASHED"] * 3, 1, True),
        (["CRASHED"] * 2, 1, False),
        (["CRASHED", "FAILED", "CRASHED"], 1, False),
        (["CRASHED"] * 3, 30, False),
    ],
)
def test_restarts_after_crashes_have_a_bound(monkeypatch, states, hours, refused):
    end = datetime.now(UTC) - timedelta(hours=hours)
    runs = [SimpleNamespace(name=f"r{i}", state_type=s, end_time=end) for i, s in enumerate(states)]
    client = SimpleNamespace(read_flow_runs=lambda **query: runs[: query["limit"]])
    monkeypatch.setattr(crashes, "get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr(crashes, "deployment", SimpleNamespace(id=str(uuid4())))
    with pytest.raises(StageFailedError, match="r0, r1, r2") if refused else nullcontext():
        crashes.refuse_after_crashes()


def test_what_an_event_starts_has_the_parameters_of_the_tree():
    """No trigger starts a deployment whose parameters make a run of its own."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    started = [d for d in content["deployments"] if d.get("triggers")]
    assert {d["name"] for d in started} == {"nightly", "weekly", "approval"}
    own = {"overrides", "profile", "variant", "data_set"}
    assert not [d["name"] for d in started if own & d["parameters"].keys()]


def test_every_stage_of_dvc_yaml_is_in_the_flow():
    tree = load_params(ROOT / "params.yaml").tree()
    stages = read_stages(tree, ROOT / "dvc.yaml")
    assert set(needed(upstream(stages), [])) == set(stages)


def test_prefect_yaml_is_valid_and_names_flows_and_stages_that_exist():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    model = PrefectYamlModel.model_validate(content)
    stages = read_stages(load_params(ROOT / "params.yaml").tree(), ROOT / "dvc.yaml")
    flows = {}
    for deployment in model.deployments:
        path, _, name = (deployment.entrypoint or "").partition(":")
        module = __import__(path.removesuffix(".py").replace("/", "."), fromlist=[name])
        flow = getattr(module, name)
        flows[f"{flow.name}/{deployment.name}"] = flow
        flow.validate_parameters({**deployment.parameters})
        for target in deployment.parameters.get("targets") or []:
            assert needed(upstream(stages), [target])
        assert deployment.work_pool is not None
        heartbeat = deployment.work_pool.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
        assert int(heartbeat) == HEARTBEAT_SECONDS  # of the automation that marks lost runs
        assert deployment.work_pool.name in ("cpu", "gpu")
    delegated = {d.parameters["train_in"] for d in model.deployments if "train_in" in d.parameters}
    assert delegated <= set(flows)
