"""A tree at the profile tiny in which stages are killed, and what they leave otherwise."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from clone import Clone

PATIENCE = 300.0
"""Seconds within which a stage at this profile ends, on a machine that is busy with other work."""

GRACE = 90.0
"""Seconds within which all processes of a killed stage are gone."""


@dataclass(frozen=True)
class Stage:
    """A command, what it writes, and what it keeps so that it can go on.

    Attributes:
        arguments: of Python.
        outputs: files, or directories with all that is in them.
        work: paths, as patterns, that let an interrupted run go on; they go with the outputs.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    work: tuple[str, ...] = ()


def _ghn(*arguments: str) -> tuple[str, ...]:
    return ("-m", "ghn.cli", *arguments)


_FLOW = """
from flows.orchestration.pipeline import pipeline
pipeline(targets=["images", "generate@val"])
"""

STAGES = {
    "generate": Stage(
        _ghn("generate", "--split", "train"),
        ("data/deepnets1m/train.h5", "data/deepnets1m/train.parquet"),
        ("data/deepnets1m/.train*",),
    ),
    "images": Stage(_ghn("images"), ("data/images/digits",)),
    "train": Stage(
        _ghn("train"),
        tuple(
            f"models/ghn3/{name}"
            for name in ("ghn.safetensors", "curve.json", "training.json", "steps.csv")
        ),
        ("models/ghn3/checkpoints",),
    ),
    "predict": Stage(
        _ghn("predict"), ("results/predictions.parquet",), ("results/.cache/predict*",)
    ),
    "evaluate": Stage(
        _ghn("evaluate"),
        (
            "results/evaluation.parquet",
            "results/evaluation.json",
            "results/evaluation_histogram.csv",
        ),
        ("results/.cache/evaluate*",),
    ),
    "finetune": Stage(_ghn("finetune"), ("results/finetune.parquet",), ("results/.cache/trials",)),
    "transfer": Stage(_ghn("transfer"), ("results/transfer.parquet",)),
    "register": Stage(_ghn("register"), ("results/registration.json",)),
    "report": Stage(_ghn("report"), ("reports/index.html", "reports/rows")),
    "flow": Stage(
        ("-c", _FLOW),
        ("data/images/digits", "data/deepnets1m/val.h5", "data/deepnets1m/val.parquet"),
    ),
}

BEFORE = (
    *(_ghn("generate", "--split", split) for split in ("train", "val", "test")),
    *(_ghn(name) for name in ("validate", "sources", "images", "train", "predict", "evaluate")),
    *(_ghn(name) for name in ("finetune", "transfer", "register", "report")),
)
"""The commands that make a whole tree."""


@dataclass
class Kills:
    """What was killed, and how it ended."""

    by_signal: dict[str, int] = field(default_factory=dict)
    completed: int = 0

    @property
    def total(self) -> int:
        """Runs that a signal ended."""
        return sum(self.by_signal.values())

    def count(self, number: int) -> None:
        """Notes one."""
        name = signal.Signals(number).name
        self.by_signal[name] = self.by_signal.get(name, 0) + 1


class Tree:
    """A clone with every stage done, and how long each took."""

    def __init__(self, path: Path, commands: Sequence[tuple[str, ...]] = BEFORE) -> None:
        clone = Clone(path)
        three = {"replace": True}
        tree = {name: {"size": size} for name, size in (("train", 200), ("val", 60), ("test", 60))}
        clone.change(generate={"shard_size": 40, "splits": tree}, **three)
        self.path = path
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path),
            "GHN_DATA_ROOT": str(path / "no-data"),
            "OMP_NUM_THREADS": "1",
            "PREFECT_HOME": str(path.parent / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        self.seconds: dict[tuple[str, ...], float] = {}
        self._bytes: dict[str, dict[str, bytes]] = {}
        for arguments in commands:
            self.finish(arguments)

    def start(
        self, arguments: tuple[str, ...], prefix: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[str]:
        """Starts a command in a session of its own, below another one if there is a `prefix`."""
        return subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            cwd=self.path,
            env=self.environment,
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
            text=True,
            start_new_session=True,
        )

    def finish(self, arguments: tuple[str, ...]) -> None:
        """Runs a command to its end, which has to be good."""
        started = time.monotonic()
        process = self.start(arguments)
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, f"{arguments}: {error[-3000:]}"
        self.seconds.setdefault(arguments, time.monotonic() - started)

    def fails(self, arguments: tuple[str, ...], **options: Any) -> str:
        """Runs a command that has to fail with one clear message, and returns that."""
        process = self.start(arguments, **options)
        error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode, f"{arguments} succeeded"
        assert "Traceback" not in error, error[-4000:]
        assert "ghn: " in error, error[-4000:]
        return error

    def read(self, outputs: Sequence[str]) -> dict[str, bytes]:
        """The outputs by path; those that are not there are left out."""
        found = {}
        for output in outputs:
            path = self.path / output
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            found |= {
                file.relative_to(self.path).as_posix(): file.read_bytes()
                for file in files
                if file.is_file()
            }
        return found

    def expected(self, name: str) -> dict[str, bytes]:
        """What a stage writes when nothing interrupts it."""
        if name not in self._bytes:
            stage = STAGES[name]
            if stage.arguments not in self.seconds:
                self.clear(name)
                self.finish(stage.arguments)
            self._bytes[name] = self.read(stage.outputs)
        return self._bytes[name]

    def clear(self, name: str) -> None:
        """Removes what a stage wrote, and all that it could go on from."""
        stage = STAGES[name]
        for pattern in (*stage.outputs, *stage.work):
            for path in self.path.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if name == "flow":  # DVC has what it made before
            for leftover in (self.path / "dvc.lock", self.path / ".dvc" / "cache"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)

    @contextmanager
    def prefect(self) -> Iterator[None]:
        """A Prefect server that flows of this tree report to; it is not killed."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        arguments = ("-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        server = self.start(arguments, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE
            while not self._answers(f"{url}/health"):
                assert time.monotonic() < deadline
                time.sleep(0.5)
            self.environment["PREFECT_API_URL"] = url
            yield
        finally:
            self.environment.pop("PREFECT_API_URL", None)
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    @staticmethod
    def _answers(url: str) -> bool:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            return False
        return True

    @contextmanager
    def kept(self, name: str) -> Iterator[dict[str, bytes]]:
        """What a stage writes, put back at the end."""
        before = self.expected(name)
        try:
            yield before
        finally:
            self.clear(name)
            for path, content in before.items():
                (self.path / path).parent.mkdir(parents=True, exist_ok=True)
                (self.path / path).write_bytes(content)

    def is_as_expected(self, name: str) -> None:
        """Holds the outputs of a stage against those of a run that was not interrupted."""
        expected, found = self.expected(name), self.read(STAGES[name].outputs)
        assert found.keys() == expected.keys()
        assert [path for path in found if found[path] != expected[path]] == []
        assert list(self.path.glob("data/**/.tmp-*")) == []
        assert [*self.path.glob("models/**/.tmp-*"), *self.path.glob("results/.tmp-*")] == []

    def kill(self, name: str, kills: int, seed: int) -> Kills:
        """Kills a stage `kills` times at moments drawn by `seed`, each run beginning with what the
        one before left; whenever one gets to its end, and at last, the outputs have to be right.
        """
        draw = random.Random(f"{name} {seed}")
        stage, counted = STAGES[name], Kills()
        self.expected(name)
        self.clear(name)
        while counted.total < kills:
            number = draw.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            moment = draw.uniform(0.1, 1.05) * self.seconds[stage.arguments]
            started = time.monotonic()
            process = self.start(stage.arguments)
            try:
                error = process.communicate(timeout=moment)[1]
            except subprocess.TimeoutExpired:
                error = self._signal(process, number)
                counted.count(number)
                if process.returncode:
                    self._ended_well(name, process.returncode, number, error)
                    continue
            assert process.returncode == 0, f"{name} went on badly: {error[-4000:]}"
            counted.completed += 1
            if time.monotonic() - started < moment:  # the machine was busier when it was measured
                self.seconds[stage.arguments] = time.monotonic() - started
            self.is_as_expected(name)
            self.clear(name)
        self.finish(stage.arguments)
        self.is_as_expected(name)
        return counted

    def _signal(self, process: subprocess.Popen[str], number: int) -> str:
        """Sends a signal as a terminal, a supervisor or the kernel does, and waits for all."""
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        error = process.communicate(timeout=GRACE)[1]
        _, alive = psutil.wait_procs(family, timeout=GRACE)
        assert alive == [], f"{alive} outlived the {signal.Signals(number).name} of the stage"
        return error

    @staticmethod
    def _ended_well(name: str, code: int, number: int, error: str) -> None:
        """A signal that can be handled is; while Python itself starts it cannot be yet. How a flow
        ends is Prefect's affair.
        """
        if name == "flow":
            return
        assert code in (-number, 128 + number), f"{name}: exit code {code}: {error[-4000:]}"
        if number != signal.SIGKILL and code > 0:
            assert "Traceback" not in error, f"{name}: {error[-4000:]}"
            assert error.count("the same command") <= 1, f"{name}: {error[-4000:]}"
