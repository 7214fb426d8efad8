"""DVC remotes with real storage: a directory, S3 and SSH by local servers; run-cache; queued
experiments; plots.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from server_project import Project, environment, free_port, wait_for

pytestmark = pytest.mark.server

DVC_YAML = """
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [base.seed]
    outs: [weights.bin]
    metrics:
      - metrics.json:
          cache: false
    plots:
      - losses.csv:
          cache: false
          x: step
          y: loss
"""
TRAIN = """
import json, pathlib, yaml
seed = yaml.safe_load(open("params.yaml"))["base"]["seed"]
pathlib.Path("runs.log").open("a").write("run\\n")
pathlib.Path("weights.bin").write_bytes(bytes([seed]) * 100_000)
pathlib.Path("metrics.json").write_text(json.dumps({"loss": 1 / seed}))
lines = "".join(f"{i},{1 / (seed + i)}\\n" for i in range(5))
pathlib.Path("losses.csv").write_text("step,loss\\n" + lines)
"""


@pytest.fixture
def project(tmp_path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    project = Project(root, environment(root))
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "train.py").write_text(TRAIN)
    (root / "params.yaml").write_text("base:\n  seed: 1\n")
    (root / ".gitignore").write_text("runs.log\n")
    project.run("git", "init", "-q", "-b", "main")
    project.dvc("init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "start")
    return project


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback with a bucket."""
    boto3 = pytest.importorskip("boto3", reason="needs the extra `s3`")
    pytest.importorskip("moto.server", reason="needs moto[s3] and flask")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(urlopen(url, timeout=2).status)
        except HTTPError:
            return True
        except (URLError, OSError):
            return False

    try:
        wait_for("the S3 server answers", answers, 60)
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
            Bucket="ghn"
        )
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """OpenSSH's server on loopback: host, port and the key of a user (this one) that may log in."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no sshd (Debian: apt-get install openssh-server)")
    if os.geteuid() == 0:
        # what its service makes; root's sshd asks for it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    directory = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True
        )
    port = free_port()
    settings = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": directory / "host",
        "AuthorizedKeysFile": directory / "user.pub",
        "PasswordAuthentication": "no",
        "StrictModes": "no",  # temporary directories are open to others further up
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (directory / "config").write_text(
        "".join(f"{key} {value}\n" for key, value in settings.items())
    )
    log = (directory / "log").open("w")
    server = subprocess.Popen([program, "-D", "-e", "-f", directory / "config"], stderr=log)

    def listens() -> bool:
        assert server.poll() is None, (directory / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for("sshd answers", listens, 20)
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", directory / "user"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def clone_and_pull(project: Project, name: str, remote: str) -> Project:
    root = project.root.parent / name
    project.run("git", "clone", "-q", str(project.root), str(root))
    clone = Project(root, project.environment)
    if (local := project.root / ".dvc" / "config.local").exists():
        (root / ".dvc" / "config.local").write_text(local.read_text())
    clone.dvc("pull", "-q", "--remote", remote, "--run-cache")
    return clone


@pytest.mark.parametrize("kind", ["local", "s3", "ssh"])
def test_another_clone_gets_everything_without_computing(project, kind, request, tmp_path):
    if kind == "s3":
        project.environment |= {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        project.dvc("remote", "add", "s3", "s3://ghn/dvc")
        project.dvc(
            "remote", "modify", "--local", "s3", "endpointurl", request.getfixturevalue("s3")
        )
    elif kind == "ssh":
        pytest.importorskip("dvc_ssh", reason="needs the extra `ssh`")
        url, key = request.getfixturevalue("sshd")
        project.dvc("remote", "add", kind, f"{url}{tmp_path / 'remote'}")
        project.dvc("remote", "modify", "--local", kind, "keyfile", str(key))
    else:
        project.dvc("remote", "add", kind, str(tmp_path / "remote"))
    project.dvc("repro", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "trained")
    project.dvc("push", "-q", "--remote", kind, "--run-cache")

    clone = clone_and_pull(project, "clone", kind)
    assert (clone.root / "weights.bin").read_bytes() == b"\x01" * 100_000
    assert "up to date" in clone.dvc("repro")
    if kind != "s3":
        assert list((tmp_path / "remote" / "files" / "md5").rglob("*"))
    assert not (clone.root / "runs.log").exists()


def test_the_run_cache_knows_what_a_command_would_give(project):
    project.dvc("repro", "-q")
    for lost in ("dvc.lock", "weights.bin", "metrics.json"):
        (project.root / lost).unlink()
    assert "is cached - skipping run" in project.dvc("repro")
    assert (project.root / "weights.bin").read_bytes() == b"\x01" * 100_000
    assert (project.root / "metrics.json").exists()
    assert (project.root / "runs.log").read_text() == "run\n"


@pytest.mark.slow
def test_two_queued_experiments_are_compared(project):
    project.dvc("repro", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "trained")
    for seed in (2, 4):
        project.dvc(
            "exp", "run", "--queue", "--name", f"seed-{seed}", "--set-param", f"base.seed={seed}"
        )
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    for seed, loss in ((2, 0.5), (4, 0.25)):
        difference = json.loads(project.dvc("exp", "diff", "--json", "HEAD", f"seed-{seed}"))
        assert difference["metrics"]["metrics.json"]["loss"] == {
            "old": 1.0,
            "new": loss,
            "diff": loss - 1.0,
        }
    plots = json.loads(project.dvc("plots", "diff", "--json", "HEAD", "seed-2", "seed-4"))
    curves = next(iter(plots["data"].values()))
    assert len(json.dumps(curves)) > 100
    assert {entry["rev"] for entry in _points(curves)} == {"HEAD", "seed-2", "seed-4"}


def _points(tree: object) -> list[dict[str, str]]:
    if isinstance(tree, dict):
        found = [tree] if "rev" in tree else []
        return found + [point for value in tree.values() for point in _points(value)]
    if isinstance(tree, list):
        return [point for value in tree for point in _points(value)]
    if isinstance(tree, str) and tree.startswith("{"):
        return _points(json.loads(tree))
    return []
