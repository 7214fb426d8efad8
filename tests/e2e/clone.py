"""A clone of the repository in which the real commands run."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml

from flows.params import merge

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test", "wide", "deep", "dense", "bnfree")


class Clone:
    """A clone of the tree with the parameters of the test."""

    def __init__(self, path: Path, data: Path | None = None):
        self.path = path
        self.data = data or path / "no-data"  # a fresh machine: digits only
        subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{ROOT}", str(path)], check=True)
        (path / "dvc.lock").unlink(missing_ok=True)
        (path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        self.run("-m", "ghn.cli", "params", "use", "tiny")
        tree = yaml.safe_load((path / "params.yaml").read_text())
        tree["generate"]["splits"] |= {split: {"size": 4} for split in SPLITS[3:]}
        self.change(
            generate=tree["generate"],
            architectures={"splits": ["test"]},
            fanout={"workers": 1},
            replace=True,
        )

    def change(self, replace: bool = False, **sections: dict) -> None:
        path = self.path / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        tree = merge(tree, sections)
        if replace:
            tree["generate"] = sections["generate"]
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.path),
            "GHN_DATA_ROOT": str(self.data),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result

    def repro(self) -> tuple[list[str], float]:
        """Runs `dvc repro`; the stages that ran, and the seconds."""
        started = time.monotonic()
        result = self.run("-m", "dvc", "repro")
        return re.findall(r"Running stage '([^']+)'", result.stdout), time.monotonic() - started
