import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from train_setting import step_losses

WORKER = Path(__file__).with_name("kill_worker.py")


def _start(directory: Path) -> subprocess.Popen[bytes]:
    environment = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(WORKER.parents[3]),
        "PATH": "/usr/bin:/bin",
    }
    return subprocess.Popen([sys.executable, str(WORKER), str(directory)], env=environment)


def _wait_for(directory: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    log = directory / "steps.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= lines:
            return
        time.sleep(0.02)


def test_kill_nine_at_random_steps_changes_nothing(tmp_path: Path) -> None:
    whole = _start(tmp_path / "whole")
    draw = random.Random(7)
    killed = 0
    for at in sorted(draw.sample(range(2, 28), 2)):
        process = _start(tmp_path / "killed")
        _wait_for(tmp_path / "killed", at, process)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 2
    assert len(step_losses(tmp_path / "killed")) < 30
    assert _start(tmp_path / "killed").wait(timeout=300) == 0
    assert whole.wait(timeout=300) == 0
    assert step_losses(tmp_path / "killed") == step_losses(tmp_path / "whole")
    weights = [(tmp_path / name / "ghn.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_a_polite_stop_leaves_a_checkpoint(tmp_path: Path) -> None:
    process = _start(tmp_path)
    _wait_for(tmp_path, 4, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    done = len(step_losses(tmp_path))
    assert 4 <= done < 30
    assert (tmp_path / "checkpoints" / f"step-{done:08}.state").is_file()
