"""The real servers: deploy, run, schedule, react, cancel, lose a worker, restart, and find
everything afterwards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from server_project import Project, patience, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow]


def api(project: Project, path: str, body: Any = None, method: str = "POST") -> Any:
    """Asks the Prefect server itself."""
    request = urllib.request.Request(
        f"{project.environment['PREFECT_API_URL']}{path}",
        data=None if method == "GET" else json.dumps(body or {}).encode(),
        headers={"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return json.loads(text) if text else None


def deployment(project: Project, name: str) -> dict[str, Any]:
    return api(project, f"/deployments/name/{name}", method="GET")


def start(project: Project, name: str, **parameters: Any) -> str:
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return api(project, f"/deployments/{deployment(project, name)['id']}/create_flow_run", body)[
        "id"
    ]


def run_state(project: Project, run: str) -> str:
    return api(project, f"/flow_runs/{run}", method="GET")["state"]["name"]


def finish(project: Project, run: str, seconds: float = 240.0) -> str:
    final = ("Completed", "Failed", "Crashed", "Cancelled")
    wait_for(f"flow run {run} ends", lambda: run_state(project, run) in final, seconds)
    return run_state(project, run)


def task_runs(project: Project, run: str) -> dict[str, dict[str, Any]]:
    found = api(project, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    # Prefect adds one per subflow
    return {task["name"]: task for task in found if "stage" in task["task_key"]}


def runs_of(project: Project, name: str) -> list[dict[str, Any]]:
    identifier = deployment(project, name)["id"]
    return api(
        project, "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [identifier]}}}
    )


def triggered(project: Project, name: str) -> list[str]:
    """The runs that no schedule made (it makes those of weeks ahead), oldest first."""
    runs = sorted(runs_of(project, name), key=lambda run: run["created"])
    return [run["id"] for run in runs if not run["auto_scheduled"]]


def set_seed(project: Project, seed: int) -> None:
    path = project.root / "params.yaml"
    path.write_text(re.sub(r"(?m)^  seed: \d+", f"  seed: {seed}", path.read_text(), count=1))


def pid(project: Project, service: str) -> int:
    return int((project.root / ".stack" / f"{service}.pid").read_text().split()[0])


def test_only_loopback_is_bound(stack):
    services = ("postgres", "prefect", "mlflow", "worker-cpu", "worker-gpu")
    processes = [psutil.Process(pid(stack, service)) for service in services]
    family = [p for process in processes for p in (process, *process.children(recursive=True))]
    addresses = {
        c.laddr.ip
        for p in family
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_starting_again_changes_nothing(stack):
    before = pid(stack, "prefect")
    assert "prefect runs already" in stack.ghn("stack", "up")
    assert pid(stack, "prefect") == before
    assert stack.ghn("stack", "status").count("pid ") == 5


def test_what_is_deployed(stack):
    names = (
        "pipeline/nightly",
        "pipeline/gpu",
        "pipeline/generate",
        "train/on-demand",
        "reevaluate/weekly",
    )
    found = {name: deployment(stack, name) for name in (*names, "init/on-demand")}
    assert {
        name: d["work_pool_name"] for name, d in found.items() if d["work_pool_name"] == "gpu"
    }.keys() == {
        "pipeline/gpu",
        "train/on-demand",
    }
    crons = {
        name: d["schedules"][0]["schedule"]["cron"] for name, d in found.items() if d["schedules"]
    }
    assert crons == {"pipeline/nightly": "0 2 * * *", "reevaluate/weekly": "0 4 * * 0"}
    automations = api(stack, "/automations/filter")
    assert {a["name"].split("__")[0] for a in automations} >= {
        "ghn-continue-a-crashed-run",
        "ghn-mark-lost-runs-as-crashed",
        "ghn-train-on-a-new-train-split",
        "ghn-ask-about-a-challenger",
        "ghn-reevaluate-a-new-champion",
    }
    limit = api(stack, "/v2/concurrency_limits/training", method="GET")
    assert limit["limit"] >= 1


def test_the_pipeline_runs_independent_stages_at_once_then_skips_all(stack):
    run = start(stack, "pipeline/nightly")
    assert finish(stack, run) == "Completed"
    tasks = task_runs(stack, run)
    assert tasks.keys() == {
        "generate@train",
        "generate@test",
        "images",
        "train -> pipeline/gpu",
        "evaluate",
        "validate",
    }
    spans = {
        name: (datetime.fromisoformat(t["start_time"]), datetime.fromisoformat(t["end_time"]))
        for name, t in tasks.items()
    }
    assert max(spans[n][0] for n in ("generate@train", "generate@test", "images")) < min(
        spans[n][1] for n in ("generate@train", "generate@test", "images")
    )
    assert spans["train -> pipeline/gpu"][0] >= spans["images"][1]
    assert (stack.root / "evaluation.txt").read_text() == "test 1\ntrain 1\nimages\n"


def test_a_schedule_starts_a_run_that_skips_what_has_not_changed(stack):
    path = f"/deployments/{deployment(stack, 'pipeline/nightly')['id']}/schedules"
    # Again and again, since the server's scheduler may look just after a single occasion.
    (made,) = api(stack, path, [{"schedule": {"interval": 30.0}, "active": True, "slug": "soon"}])
    try:
        wait_for("a scheduled run begins", lambda: scheduled(stack))
    finally:  # takes the runs that have not begun away
        api(stack, f"{path}/{made['id']}", method="DELETE")
    again = scheduled(stack)[0]
    assert finish(stack, again) == "Completed"
    assert {task["state_name"] for task in task_runs(stack, again).values()} == {"Unchanged"}
    artifacts = api(stack, "/artifacts/filter", {"flow_runs": {"id": {"any_": [again]}}})
    by_key = {artifact["key"]: artifact for artifact in artifacts}
    assert by_key["stages"]["type"] == "table"
    assert all(float(row["seconds"]) > 0 for row in json.loads(by_key["stages"]["data"]))
    assert "| evaluate | Unchanged |" in by_key["pipeline"]["data"]
    assert (
        f"{stack.environment['MLFLOW_TRACKING_URI']}/#/experiments/" in by_key["pipeline"]["data"]
    )


def scheduled(project: Project) -> list[str]:
    """The runs of pipeline/nightly that a schedule started, the first first."""
    begun = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED")
    runs = sorted(runs_of(project, "pipeline/nightly"), key=lambda run: run["expected_start_time"])
    return [run["id"] for run in runs if run["auto_scheduled"] and run["state"]["type"] in begun]


def test_parameters_make_an_experiment_and_leave_the_tree_alone(stack):
    before = (stack.root / "params.yaml").read_text()
    run = start(stack, "pipeline/generate", targets=["evaluate"], overrides={"base.seed": 5})
    assert finish(stack, run) == "Completed"
    assert (stack.root / "params.yaml").read_text() == before
    assert (stack.root / "evaluation.txt").read_text() == "test 1\ntrain 1\nimages\n"
    name = api(stack, f"/flow_runs/{run}", method="GET")["name"]
    difference = json.loads(stack.dvc("exp", "diff", "--json", "HEAD", name))
    assert difference["params"]["params.yaml"]["base.seed"] == {"old": 1, "new": 5, "diff": 4}
    # What does not depend on the seed came from the tree: from its cache, and a metric that is not
    # in the cache.
    assert task_runs(stack, run)["images"]["state_name"] == "Unchanged"


def test_a_wrong_parameter_fails_with_its_name_and_is_not_retried(stack):
    run = start(stack, "pipeline/generate", overrides={"train.nonsense": 1})
    assert finish(stack, run) == "Failed"
    assert "train.nonsense" in api(stack, f"/flow_runs/{run}", method="GET")["state"]["message"]
    assert not list((stack.root / ".dvc" / "tmp" / "workspaces").glob("*"))


def test_new_data_and_a_new_champion_start_what_depends_on_them(stack):
    # The train split alone is generated anew: the run leaves training to others.
    set_seed(stack, 2)
    before = len(triggered(stack, "pipeline/nightly"))
    run = start(stack, "pipeline/generate", targets=["generate@train"], only=True)
    assert finish(stack, run) == "Completed"
    wait_for("training starts by itself", lambda: triggered(stack, "pipeline/nightly")[before:])
    for training in triggered(stack, "pipeline/nightly")[before:]:
        assert finish(stack, training) == "Completed"
    assert (stack.root / "model.txt").read_text() == "train 2\nimages\n"  # the tree's seed

    # A version is registered with its evaluation, becomes the champion, and is evaluated anew.
    artifacts = stack.root / "model" / "artifacts"
    artifacts.mkdir(parents=True)
    shutil.copy(stack.root / "results" / "evaluation.parquet", artifacts)
    (artifacts / "ghn.safetensors").write_text("0.6")  # better than that evaluation says
    script = (
        "from flows.tracking import stage_run\n"
        "with stage_run('register', {}, connect_after_seconds=0) as run:\n"
        "    run.register_model('ghn3', 'model', {'variant': 'ghn2'}, 'challenger', 'a test')\n"
    )
    assert "ghn3 version 1 is the champion" in stack.run("python", "-c", script)
    wait_for("re-evaluation starts by itself", lambda: triggered(stack, "reevaluate/weekly"))
    (again,) = triggered(stack, "reevaluate/weekly")
    assert finish(stack, again) == "Failed"
    state = api(stack, f"/flow_runs/{again}", method="GET")["state"]
    assert "DriftError: version 1 of ghn3" in state["message"]
    tags = stack.ghn("registry", "show", "@champion")
    assert "reevaluation.drifted: True\n" in tags
    found = api(stack, "/artifacts/filter", {"flow_runs": {"id": {"any_": [again]}}})
    (table,) = (artifact for artifact in found if artifact["key"] == "reevaluation")
    assert json.loads(table["data"])[0]["accuracy now"] == pytest.approx(0.645, abs=0.05)


def test_cancelling_ends_the_stage_and_all_its_processes(stack):
    hold = Path(stack.environment["GHN_TEST_HOLD"])
    hold.touch()
    run = start(stack, "train/on-demand", targets=["train"], overrides={"train.steps": 77})
    workspaces = stack.root / ".dvc" / "tmp" / "workspaces"
    wait_for("the stage runs", lambda: list(workspaces.glob("*/train.started")))
    stages = [p for p in psutil.process_iter(["cwd"]) if str(workspaces) in (p.info["cwd"] or "")]
    # the shell of the stage, below DVC
    assert any("train.started" in " ".join(p.cmdline()) for p in stages)
    limit = api(stack, "/v2/concurrency_limits/training", method="GET")
    assert limit["active_slots"] == 1
    api(stack, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert finish(stack, run) == "Cancelled"
    assert not psutil.wait_procs(stages, timeout=patience(20))[1]
    assert list(workspaces.glob("*/train.started"))  # what it had is kept

    # The same parameters go on there, and leave nothing when they succeed.
    (kept,) = (path.parent for path in workspaces.glob("*/train.started"))
    (kept / "train.started").unlink()
    run = start(stack, "train/on-demand", targets=["train"], overrides={"train.steps": 77})
    wait_for("the stage runs again", (kept / "train.started").exists)
    hold.unlink()
    assert finish(stack, run) == "Completed"
    wait_for("the workspace is removed", lambda: not kept.exists(), 30)


def test_cancelling_a_pipeline_ends_the_training_that_it_left_to_the_other_pool(stack):
    hold, started = Path(stack.environment["GHN_TEST_HOLD"]), stack.root / "train.started"
    hold.touch()
    set_seed(stack, 4)  # so that there is something to train
    started.unlink(missing_ok=True)
    run = start(stack, "pipeline/nightly")
    wait_for("the stage runs", started.exists)
    before = {
        r["id"]
        for r in runs_of(stack, "pipeline/gpu")
        if r["state"]["type"] in ("RUNNING", "PENDING")
    }
    assert len(before) == 1
    api(stack, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert finish(stack, run) == "Cancelled"
    assert finish(stack, before.pop()) == "Cancelled"
    started.unlink()
    hold.unlink()


def test_a_run_is_continued_when_its_worker_is_killed_and_when_its_machine_is_lost(stack):
    hold = Path(stack.environment["GHN_TEST_HOLD"])
    hold.touch()
    started = stack.root / "train.started"
    set_seed(stack, 3)

    def training(run: str) -> list[psutil.Process]:
        """Waits until the stage train of a run is at work; all processes below the worker."""
        wait_for(f"run {run} trains", started.exists)
        started.unlink()
        return psutil.Process(pid(stack, "worker-cpu")).children(recursive=True)

    def continued(after: str) -> str:
        """Starts the worker again and waits for the run that the trigger starts in place of one
        that crashed.
        """
        assert "worker-cpu   not running" in stack.ghn("stack", "status", check=False)
        assert "worker-cpu started" in stack.ghn("stack", "up")
        created = api(stack, f"/flow_runs/{after}", method="GET")["created"]

        def later() -> list[str]:
            return [r["id"] for r in runs_of(stack, "pipeline/nightly") if r["created"] > created]

        wait_for("a run that continues is started by the trigger", later)
        return later()[0]

    started.unlink(missing_ok=True)
    first = start(stack, "pipeline/nightly", train_in=None)
    processes = training(first)
    os.kill(pid(stack, "worker-cpu"), signal.SIGKILL)
    assert finish(stack, first) == "Crashed"
    assert not psutil.wait_procs(processes, timeout=patience(30))[1]  # the stage ended with its run

    second = continued(first)
    processes = training(second)
    for process in [psutil.Process(pid(stack, "worker-cpu")), *processes]:
        process.kill()  # nobody is left to say so: the server misses the heartbeats
    assert finish(stack, second) == "Crashed"

    third = continued(second)
    hold.unlink()
    assert finish(stack, third) == "Completed"
    assert (stack.root / "evaluation.txt").read_text() == "test 3\ntrain 3\nimages\n"


def test_everything_is_there_after_a_restart(stack):
    runs = len(api(stack, "/flow_runs/filter", {"limit": 200}))
    script = (
        "from flows.tracking import stage_run\nwith stage_run('register', {'a': 1},"
        " connect_after_seconds=0) as run:\n    run.register_model('ghn3', 'flows/stack',"
        " {'variant': 'ghn3-t'}, 'challenger', 'a test')\n"
    )
    stack.run("python", "-c", script)
    # While the servers are away a stage finishes, and says what was not logged.
    assert stack.ghn("stack", "down").count("stopped") == 5
    script = (
        "from flows.tracking import stage_run\nwith stage_run('offline', {},"
        " connect_after_seconds=0): pass"
    )
    assert "is not available" in stack.run("python", "-c", script)
    stack.ghn("stack", "up")
    assert "1 run sent" in stack.ghn("mlflow", "sync")
    assert len(api(stack, "/flow_runs/filter", {"limit": 200})) == runs
    listed = stack.ghn("registry", "list", "--where", "variant=ghn3-t")
    assert "@challenger" in listed
    script = (
        "import mlflow; c = mlflow.MlflowClient(); uri = c.get_model_version_download_uri('ghn3',"
        " '2')\nprint(sorted(f.path for f in mlflow.artifacts.list_artifacts(uri)))\ne ="
        " c.get_experiment_by_name('ghn3').experiment_id\nprint(len(c.search_runs([e], \"tags.stage"
        " = 'offline'\")))"
    )
    output = stack.run("python", "-c", script)
    assert "service.py" in output
    assert output.strip().endswith("1")
