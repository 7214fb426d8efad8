from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.registry import lookup
from flows.tracking import pipeline_run, stage_run
from flows.tracking import run as tracking
from flows.tracking.client import (
    TrackingError,
    client,
    run_page,
    shown_uri,
    unreachable,
)
from flows.tracking.pipeline import note_results
from flows.tracking.spool import claim, pending, send_pending
from ghn.addresses import first_line
from ghn.files import atomic_path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree with an MLflow store in it."""
    monkeypatch.chdir(tmp_path)
    # Absolute, because MLflow keeps one store per URI and process.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv(tracking.PARENT_VARIABLE, raising=False)
    (tmp_path / "in.txt").write_text("input")
    return tmp_path


def runs() -> list:
    mlflow_client = client()
    experiment = mlflow_client.get_experiment_by_name("ghn3")
    return (
        []
        if experiment is None
        else mlflow_client.search_runs(
            [experiment.experiment_id], order_by=["attributes.start_time ASC"]
        )
    )


def test_a_stage_is_a_run_with_everything_that_leads_back(store: Path) -> None:
    with (
        pipeline_run("pipeline", {"base": {"seed": 1}}) as parent,
        stage_run(
            "stage@a", {"x": {"y": 2}}, ["in.txt"], ["out.txt", "absent"], connect_after_seconds=0
        ) as run,
    ):
        run.log_metrics({"loss": 2.0}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
        (store / "out.txt").write_text("output")
        run.log_artifact("out.txt", "files")
    first, second = runs()
    assert first.info.run_id == parent
    tags = second.data.tags
    assert second.info.status == "FINISHED"
    assert tags["mlflow.parentRunId"] == parent
    assert tags["dvc.in.in.txt"] == "a43c1b0aa53a0c908810c06ab1ff3967"
    assert tags["dvc.out.out.txt"] == "78e6221f6393d1356681db398f14ce6d"
    assert "git_revision" in tags
    assert tags["mlflow.source.name"] == "ghn stage@a"
    assert second.data.params == {"x.y": "2"}
    assert [entry.dataset.digest for entry in second.inputs.dataset_inputs] == [
        tags["dvc.in.in.txt"]
    ]
    history = client().get_metric_history(second.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]
    assert second.data.metrics["seconds"] > 0
    assert second.data.metrics["peak_memory_mb"] > 10
    assert [item.path for item in client().list_artifacts(second.info.run_id, "files")] == [
        "files/out.txt"
    ]
    assert pending() == []


def test_a_pipeline_that_runs_stages_for_another_makes_no_run_of_its_own(store: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(ValueError, match="broken"),
        pipeline_run("nightly", {}) as outer,
        pipeline_run("gpu", {}) as inner,
    ):
        assert inner == outer
        raise ValueError("broken")
    assert [(run.info.run_name, run.info.status) for run in runs()] == [("nightly", "FAILED")]


def test_names_that_mlflow_refuses_do_not_cost_the_run(store: Path) -> None:
    names = ("ghn3+orth3", "selection=../a.pt", "models:/ghn3@champion", "hf://a/b.pt", "x" * 300)
    odd = {f"finetune_{name}": 1.0 for name in names}
    with stage_run("odd", {"grösse": 1}, connect_after_seconds=0) as run:
        run.log_metrics(odd)
        run.set_tags(odd)
    assert pending() == []
    (only,) = runs()
    assert only.info.status == "FINISHED"
    assert only.data.params == {"gr_sse": "1"}
    kept = {"finetune_ghn3_orth3", "finetune_selection_../a.pt", "finetune_models:/ghn3_champion"}
    assert kept <= only.data.metrics.keys() & only.data.tags.keys()
    assert len(only.data.metrics) == len(names) + len(("seconds", "peak_memory_mb"))


def test_a_short_stage_leaves_its_log_to_the_next(store: Path) -> None:
    with pytest.raises(ValueError, match="broken"), stage_run("short", {}) as run:  # noqa: PT012
        run.log_metrics({"n": 1})
        raise ValueError("broken")
    assert len(pending()) == 1
    assert not (store / "mlflow.db").exists()
    with stage_run("next", {}, connect_after_seconds=0):
        pass
    assert {run.data.tags["stage"]: run.info.status for run in runs()} == {
        "short": "FAILED",
        "next": "FINISHED",
    }
    assert pending() == []


def test_without_a_store_the_stage_goes_on_and_its_log_is_sent_later(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with stage_run("offline", {"a": 1}, connect_after_seconds=0) as run:
        run.log_metrics({"accuracy": 0.5})
    assert "127.0.0.1:9 is not available" in capsys.readouterr().err
    assert len(pending()) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    assert send_pending() == 1
    (sent,) = runs()
    assert sent.data.metrics["accuracy"] == 0.5
    assert sent.info.status == "FINISHED"
    assert pending() == []


def test_the_log_of_a_killed_stage_becomes_a_killed_run_and_a_second_sending_no_second_run(
    store: Path,
) -> None:
    spool = store / ".mlflow-spool"
    with stage_run("stage", {"a": 1}, spool=spool, connect_after_seconds=1e9) as run:
        run.log_metrics({"n": 1})
    (log,) = pending(spool)
    lines = log.read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if json.loads(line)["op"] == "end")
    dead = log.with_name(log.name.replace(f"-{os.getpid()}-", "-999999999-")).with_suffix(".open")
    dead.write_text("\n".join(lines[:end]) + "\n" + lines[end][:5])
    log.unlink()
    copy = dead.read_text()
    assert send_pending(spool) == 1
    dead.write_text(copy)
    assert send_pending(spool) == 1
    (sent,) = runs()
    assert sent.info.status == "KILLED"


def test_the_log_of_a_running_stage_is_left_alone(store: Path) -> None:
    with stage_run("running", {}, connect_after_seconds=1e9):
        assert pending() == []
    assert len(pending()) == 1


def test_ctrl_c_is_a_killed_run(store: Path) -> None:
    with pytest.raises(KeyboardInterrupt), stage_run("stage", {}, connect_after_seconds=0):
        raise KeyboardInterrupt
    for thread in threading.enumerate():
        if thread.name == "mlflow-log":
            thread.join()
    send_pending()  # what a slow machine left
    assert [run.info.status for run in runs()] == ["KILLED"]


def test_mlflows_sampler_watches_the_machine_while_a_stage_runs(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with stage_run("long", {}, connect_after_seconds=0.1):  # which logs nothing itself
        deadline = time.monotonic() + 60
        while not (
            seen := [r for r in runs() if "system/cpu_utilization_percentage" in r.data.metrics]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert seen[0].info.status == "RUNNING"
    (run,) = runs()
    history = client().get_metric_history(run.info.run_id, "system/system_memory_usage_megabytes")
    assert history[0].value > 10
    assert run.data.metrics["system/cpu_utilization_percentage"] >= 0


def test_a_log_that_cannot_be_sent_does_not_hold_up_others(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_run("first", {}, connect_after_seconds=1e9):
        pass
    (log,) = pending()
    log.write_text('{"op": "metrics", "metrics": {}, "step": 0}\n')  # without a start
    with stage_run("second", {}, connect_after_seconds=0):
        pass
    assert (
        "cannot be sent to MLflow yet (the log of a run does not begin with its start"
        in capsys.readouterr().err
    )
    assert [run.data.tags["stage"] for run in runs()] == ["second"]
    assert pending() == [log]


EXPERIMENT = """
from pathlib import Path
from flows.tracking import stage_run
with stage_run("stage", {}, connect_after_seconds=1e9) as run:
    Path("out.txt").write_text("output")
    run.log_artifact("out.txt", "files")
"""


def test_what_an_experiment_logged_outlives_its_directory(store: Path) -> None:
    directory = store / "experiment"  # as of `dvc exp run --queue`
    directory.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    variables = {
        "DVC_ROOT": str(store),
        "DVC_EXP_NAME": "exp-1",
        "PYTHONPATH": str(Path(tracking.__file__).parents[2]),
    }
    subprocess.run(
        [sys.executable, "-c", EXPERIMENT], cwd=directory, env=clean | variables, check=True
    )
    shutil.rmtree(directory)
    assert len(pending()) == 1
    assert send_pending() == 1
    (run,) = runs()
    assert run.data.tags["dvc_experiment"] == "exp-1"
    assert [item.path for item in client().list_artifacts(run.info.run_id, "files")] == [
        "files/out.txt"
    ]
    assert not [path for path in (store / ".mlflow-spool").rglob("*") if path.is_file()]


def test_a_log_that_waits_has_the_files_of_its_own_run(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the next run replaces them or writes in place."""
    spool, directory = store / ".mlflow-spool", store / "directory"
    directory.mkdir()
    for text in ("first", "second"):
        (store / "in_place.txt").write_text(text)
        with atomic_path(store / "replaced.txt") as temporary:
            temporary.write_text(text)
        (directory / "inside.txt").write_text(text)
        with stage_run("stage", {}, spool=spool, connect_after_seconds=1e9) as run:
            for name in ("in_place.txt", "replaced.txt", "directory"):
                run.log_artifact(name)
    (store / "in_place.txt").write_text("third")
    orphan = spool / "files" / "of a log that is gone"
    orphan.mkdir(parents=True)
    assert send_pending(spool) == 2
    for found, text in zip(runs(), ("first", "second"), strict=True):
        names = [item.path for item in client().list_artifacts(found.info.run_id)]
        assert names == ["in_place.txt", "inside.txt", "replaced.txt"]
        for name in names:
            path = client().download_artifacts(found.info.run_id, name, str(directory))
            assert Path(path).read_text() == text
    assert not list((spool / "files").iterdir())
    (spool / "files").rmdir()
    (spool / "files").write_text("in the way")
    with stage_run("stage", {}, spool=spool, connect_after_seconds=1e9) as run:
        run.log_artifact("in_place.txt")
    assert "no copies of the files that this stage logged" in capsys.readouterr().err
    assert len(pending(spool)) == 1


def test_what_runs_inside_may_import_mlflow_at_once(store: Path) -> None:
    script = (
        "from flows.tracking import stage_run\n"
        "with stage_run('register', {}, connect_after_seconds=0):\n"
        "    import mlflow.pyfunc\n"
        "    mlflow.get_registry_uri(), mlflow.pyfunc.load_model\n"
    )
    variables = {"PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], env=os.environ | variables, check=True)
    assert [run.info.status for run in runs()] == ["FINISHED"]


MAKES = "from flows.tracking.client import client; client()"


def test_a_store_that_was_killed_half_made_is_made_anew(store: Path) -> None:
    variables = {"PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", MAKES], env=os.environ | variables) as maker:
        while not any(file.stat().st_size > 8192 for file in store.glob("*mlflow.db")):
            assert maker.poll() is None
            time.sleep(0.01)
        maker.kill()
    assert not (store / "mlflow.db").exists()
    assert client().search_experiments()
    assert [file.name for file in store.iterdir() if "mlflow" in file.name] == ["mlflow.db"]


HELD = """
import sys, time
from flows.tracking import stage_run
with stage_run("held", {}, connect_after_seconds=1e9) as run:
    run.log_metrics({"n": 1})
    print("writes", flush=True)
    time.sleep(600)
"""


def test_a_log_belongs_to_whoever_writes_it_until_that_process_ends(store: Path) -> None:
    command = [sys.executable, "-c", HELD]
    variables = {"PYTHONPATH": str(Path(tracking.__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | variables) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline()
        # Nothing about process ids: in another container there is none of that number.
        assert pending() == []
        assert send_pending() == 0
        writer.kill()
    assert len(pending()) == 1
    assert send_pending() == 1
    (run,) = runs()
    assert (run.info.status, run.data.metrics["n"]) == ("KILLED", 1)
    assert not list((store / ".mlflow-spool").iterdir())


@pytest.mark.parametrize("suffix", [".1234.sending", ".open", ".jsonl"])
def test_what_a_killed_sender_left_is_taken_up(store: Path, suffix: str) -> None:
    with stage_run("stage", {}, connect_after_seconds=1e9):
        pass
    (log,) = pending()
    left = log.with_suffix(suffix)
    log.rename(left)
    with claim(left) as mine:  # another sender is at it
        assert mine
        assert pending() == []
        assert send_pending() == 0
    assert pending() == [left]
    assert send_pending() == 1
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_an_upload_that_fails_holds_up_neither_its_run_nor_other_logs(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "mlartifacts").write_text("in the way of all uploads")
    with stage_run("first", {}, connect_after_seconds=0) as run:
        run.log_artifact("in.txt")
        run.log_metrics({"n": 1})
    assert "mlflow.db is not available" in capsys.readouterr().err
    for _ in range(3):
        with pytest.raises(TrackingError, match=r"first.*the MLflow store is sqlite"):
            send_pending(attempts=3)
    assert send_pending(attempts=3) == 0  # what stages do: they have tried often enough
    with stage_run("second", {}, connect_after_seconds=0):
        pass
    assert "cannot be sent" not in capsys.readouterr().err
    assert {run.info.run_name: run.info.status for run in runs()} == {
        "first": "FINISHED",
        "second": "FINISHED",
    }
    assert len(pending()) == 1
    (store / "mlartifacts").unlink()
    assert send_pending() == 1
    (found,) = (run for run in runs() if run.info.run_name == "first")
    assert found.data.metrics["n"] == 1
    assert [item.path for item in client().list_artifacts(found.info.run_id)] == ["in.txt"]


def test_a_spool_that_cannot_be_written_costs_the_log_and_not_the_stage(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_run("stage", {}, spool=store / "in.txt" / "spool", connect_after_seconds=1e9):
        pass
    assert "cannot be written" in capsys.readouterr().err
    with stage_run("stage", {}, connect_after_seconds=0) as run:
        assert run._log._file is not None
        run._log._file.close()
        run._log._file = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
        run.log_metrics({"n": 1})
        run.log_metrics({"n": 2}, 1)
    assert capsys.readouterr().err.count("No space left") == 1
    assert [run.data.metrics["n"] for run in runs()] == [2]
    assert pending() == []


class _Server:
    """A server on this machine that answers whether it is there with a status, or never, and
    nothing else.
    """

    def __init__(self, status: int | None) -> None:
        self.status = status
        self.asked, self.over = threading.Event(), threading.Event()
        self.authorization: set[str | None] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.authorization.add(self.headers["Authorization"])
                if server.status is None:
                    server.over.wait(60)
                else:
                    self.send_error(server.status)

            def do_POST(self) -> None:
                server.authorization.add(self.headers["Authorization"])
                server.asked.set()
                server.over.wait(60)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


def test_a_store_is_there_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (200, 401, 404):
        with _Server(status) as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
            assert unreachable() is None
    with _Server(None) as server:  # takes connections and says nothing
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        started = time.monotonic()
        assert "timed out" in str(unreachable(0.3))
        assert time.monotonic() - started < 5
    for uri in (
        "http://127.0.0.1:9",
        "http://nobody.invalid",
        "http://[broken",
        "postgresql://u:p@127.0.0.1:9/mlflow",
        "mysql+pymysql://u:p@127.0.0.1:9/mlflow",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert unreachable()
    for uri in ("sqlite:///mlflow.db", "file:///tmp/mlruns", "databricks"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert unreachable() is None


def test_a_server_gets_the_credentials_of_its_address_and_nobody_else(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # restored after the test
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with _Server(200) as server:
        uri = server.uri.replace("http://", "http://alice:s3c%40ret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert unreachable() is None
        with pytest.raises(TrackingError, match="cannot be used") as told:
            client()
        with stage_run("stage", {}, connect_after_seconds=0.01):
            time.sleep(0.1)
    basic = base64.b64encode(b"alice:s3c@ret").decode()
    assert server.authorization == {f"Basic {basic}"}
    texts = (str(told.value), str(told.value.__cause__), capsys.readouterr().err, caplog.text)
    assert server.uri in texts[0]
    assert not [text for text in texts if "s3c" in text or "alice" in text]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:s3cret@host:5000/x", "https://host:5000/x"),
        ("https://s3cret@host/x", "https://host/x"),
        ("https://user:s3c@ret@host/x@y", "https://host/x@y"),
        ("postgresql+psycopg2://user:s3/cret@host/db", "postgresql+psycopg2://host/db"),
        ("postgresql://host/db?user=u&password=s3cret", "postgresql://host/db?user=u&password=***"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("sqlite:///a@b/mlflow.db", "sqlite:///a@b/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_credentials(
    monkeypatch: pytest.MonkeyPatch, uri: str, shown: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert shown_uri() == shown
    page = run_page("1", "abc")
    assert page.startswith(f"{shown}/#/exp" if "http" in uri else "http://127.0.0.1:5000/#/exp")
    assert (
        first_line(ValueError(f"API request to {uri} failed")) == f"API request to {shown} failed"
    )


@pytest.mark.parametrize("uri", ["https://user:s3cret/x", "postgresql://u:s3/cret@127.0.0.1/db"])
def test_an_address_that_is_none_is_not_quoted(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "no address of a server" in str(unreachable())
    assert "s3" not in str(unreachable())


@pytest.mark.parametrize(
    "uri", ["postgresql://u:secret@127.0.0.1:9/mlflow", "http://u:secret@127.0.0.1:9"]
)
def test_a_store_that_is_away_costs_a_stage_at_most_seconds(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    started = time.monotonic()
    with stage_run("stage", {}, connect_after_seconds=0.1):
        time.sleep(0.2)
    with pipeline_run("pipeline", {}) as parent:
        assert parent is None
    assert time.monotonic() - started < 15  # of which the most is to import MLflow
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 2
    assert "secret" not in told
    with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
        send_pending()


def test_a_store_that_goes_away_in_the_middle_is_not_waited_for(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _Server(200) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        with stage_run("stage", {}, connect_after_seconds=0.01):
            assert server.asked.wait(60)
            server.status = None
            started = time.monotonic()
        assert time.monotonic() - started < 9
    assert "went away" in capsys.readouterr().err
    assert len(pending()) == 1


def test_a_store_that_is_damaged_is_named_with_the_way_out(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "text.db").write_text("no data base" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/text.db")
    with pytest.raises(TrackingError, match=r"file is not a database.*text\.db is damaged, move"):
        client()
    client_of_another = f"sqlite:///{store}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client_of_another)
    client()
    with sqlite3.connect(store / "other.db") as connection:
        connection.execute("update alembic_version set version_num = 'deadbeef0000'")
    copy = shutil.copy(store / "other.db", store / "newer.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    with pytest.raises(TrackingError, match="mlflow db upgrade") as told:
        client()
    assert "\n" not in str(told.value)


def test_a_look_up_makes_no_store(store: Path) -> None:
    for look in (lambda: lookup.versions("ghn3"), lambda: lookup.find("ghn3", "@champion")):
        with pytest.raises(TrackingError, match=r"no MLflow store here.*MLFLOW_TRACKING_URI"):
            look()
    assert not (store / "mlflow.db").exists()


def test_uploads_may_take_as_long_as_the_server_is_there(store: Path) -> None:
    client()
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) >= 120
    assert os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] == "true"


def test_the_run_of_a_pipeline_has_its_results(store: Path) -> None:
    (store / "results").mkdir()
    entry = {"architectures": 9, "errors": 1, "mean": 0.25, "randinit_mean": 0.1, "chance": 0.1}
    summary = {"test": entry, "torchvision": {"architectures": 1, "errors": 1, "chance": 0.1}}
    (store / "results" / "evaluation.json").write_text(json.dumps(summary))
    with pipeline_run("pipeline", {}) as parent:
        note_results(parent)
    (run,) = runs()
    assert run.data.metrics == {"accuracy/test": 0.25, "randinit_accuracy/test": 0.1}
    assert "test: 25.0% of images right" in run.data.tags["mlflow.note.content"]
    (store / "results" / "evaluation.json").write_text("[1")
    note_results(parent)
    note_results(None)


def test_a_model_whose_stage_was_killed_before_it_was_named_is_removed(store: Path) -> None:
    spool = store / ".mlflow-spool"
    with stage_run("register", {}, connect_after_seconds=1e9) as run:
        for name in (run.log_id, "0" * 32):
            (spool / "models" / name).mkdir(parents=True)
        send_pending()
        assert [path.name for path in (spool / "models").iterdir()] == [run.log_id]


def test_an_interrupted_stage_does_not_wait_for_a_thread_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C within an import may leave the lock of imports taken: the thread never ends. A slow
    store is not waited for either, by whoever pressed it.
    """
    monkeypatch.chdir(tmp_path)
    stuck = threading.Event()
    monkeypatch.setattr(tracking.StageRun, "_background", lambda *_: stuck.wait())
    monkeypatch.setattr(tracking, "unreachable", lambda *_: None)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), tracking.stage_run("evaluate", {}, spool=tmp_path):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 9
    assert list(tmp_path.glob("*.jsonl"))  # the next stage sends it
    stuck.set()
