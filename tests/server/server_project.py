"""A project of its own for tests with servers: a copy of this checkout with a small dvc.yaml."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Stages with the names and dependencies that matter to operations, and commands that take seconds.
# `train` waits for as long as the file `hold` exists.
DVC_YAML = """
stages:
  generate:
    foreach: [train, test]
    do:
      cmd: sleep 2 && mkdir -p data/deepnets1m && echo ${item} ${base.seed} > data/deepnets1m/${item}.h5
      params: [base.seed]
      outs:
        - data/deepnets1m/${item}.h5
  validate:
    cmd: cat data/deepnets1m/train.h5 data/deepnets1m/test.h5 > validation.txt
    deps: [data/deepnets1m/train.h5, data/deepnets1m/test.h5]
    outs: [validation.txt]
  images:
    cmd: sleep 2 && echo images > images.txt && echo 1 > images.json
    outs: [images.txt]
    metrics:
      - images.json: {cache: false}
  train:
    cmd: "touch train.started; while [ -e $GHN_TEST_HOLD ]; do sleep 0.5; done; cat data/deepnets1m/train.h5 images.txt > model.txt; echo 1 > ${base.ghn}.json"
    deps: [data/deepnets1m/train.h5, images.txt]
    params: [base.seed, train.steps]
    outs: [model.txt]
    metrics:
      - ${base.ghn}.json: {cache: false}
  evaluate:
    cmd: cat data/deepnets1m/test.h5 model.txt > evaluation.txt && python evaluate.py ${base.ghn}
    deps: [data/deepnets1m/test.h5, model.txt]
    outs: [evaluation.txt, results/evaluation.parquet]
"""  # noqa: E501

# Rows like those of the stage evaluate. A hypernetwork is the accuracy of its networks, as text;
# without, one half.
EVALUATE = """
import sys
import numpy as np
from flows.rows.answers import pack
from flows.rows.schema import identity, write_rows
from flows.settings import paths
from flows.stages.evaluate import COLUMNS

def answers(accuracy, seed):
    return pack(np.random.default_rng(seed).random(64) < accuracy)

weights = paths.weights(sys.argv[1])
accuracy = float(weights.read_text()) if weights.exists() else 0.5
rows = [
    {**identity(f"deepnets1m/test/{i}", "test", sys.argv[1], 1, "h"), "images": 64,
     "accuracy": accuracy + i / 100, "correct": answers(accuracy + i / 100, i),
     "randinit_accuracy": 0.1 + i / 1000, "randinit_correct": answers(0.1 + i / 1000, i),
     "settings": "{}"}
    for i in range(10)
]
write_rows(paths.EVALUATION, rows, COLUMNS)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def patience(seconds: float) -> float:
    """Seconds on a quiet machine, and as many more as there are processes for each of its cores."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_for(what: str, condition: Callable[[], object], seconds: float = 180.0) -> None:
    """Waits for something, `seconds` on a quiet machine."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > patience(seconds):
            raise TimeoutError(f"not within {waited:.0f} s: {what}")
        time.sleep(0.5)


@dataclass
class Project:
    """A checkout in a temporary directory."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, check: bool = True, **variables: str) -> str:
        """Runs a command there and returns its output."""
        result = subprocess.run(
            command,
            cwd=self.root,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}"
        return result.stdout

    def ghn(self, *arguments: str, check: bool = True) -> str:
        return self.run(sys.executable, "-m", "ghn.cli", *arguments, check=check)

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)


def environment(root: Path) -> dict[str, str]:
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PREFECT_", "MLFLOW_", "GHN_STACK_"))
    }
    return clean | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
        "GHN_GRACE_SECONDS": "2",
    }


def copy_checkout(root: Path) -> None:
    """The tracked files as they are now."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)


def make_project(root: Path, dvc_yaml: str = DVC_YAML) -> Project:
    copy_checkout(root)
    project = Project(root, environment(root))
    (root / "dvc.yaml").write_text(dvc_yaml)
    (root / "evaluate.py").write_text(EVALUATE)
    (root / "dvc.lock").unlink(missing_ok=True)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "a project")
    return project
