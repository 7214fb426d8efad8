"""Networks that explode, phases, damage, and signals that come at bad moments."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from train_setting import Batch, make_batch, make_ghn, meta_batches

from datasets.images import ImageTensors
from ghn.errors import ConfigError
from ghn.files import sha256
from ghn.train import Callback, Phase, TrainConfig, Training, meta_batch_losses, train
from ghn.train.checkpoint import Checkpoints, RunState
from ghn.train.log import read_log
from ghn.train.memory import out_of_memory

CONFIG = TrainConfig(
    steps=6, meta_batch_size=2, batch_size=8, warmup_steps=1, lr=1e-3, checkpoint_every=2
)


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def _rows(directory: Path) -> list[dict[str, float]]:
    lines = (directory / "steps.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=_no_constant) for line in lines]


def _poisoned(bad: dict[int, tuple[int, ...]]) -> Callable[[int], Iterator[Batch]]:
    """Networks by step that give no finite number."""

    def batches(start: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(start), start):
            for place in bad.get(t, ()):
                forward = batch.networks[place].forward
                batch.networks[place].forward = lambda x, f=forward: f(x) * math.nan  # type: ignore[method-assign]
            yield batch

    return batches


class _Warnings(Callback):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_warning(self, training: Training, message: str) -> None:
        self.messages.append(message)


def test_a_network_that_is_not_finite_is_left_out_and_the_others_learn(
    digits: ImageTensors, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"network_clip": 5.0})
    bad = {1: (0,), 3: (0, 1), 4: (1,)}
    ghn = make_ghn()
    result = train(config, ghn, _poisoned(bad), digits, tmp_path)
    rows = _rows(tmp_path)
    assert [row["left_out"] for row in rows] == [0, 1, 0, 2, 1, 0]
    assert [row["skipped"] for row in rows] == [False, False, False, True, False, False]
    assert rows[3]["loss"] is None
    assert (result.skipped, result.left_out) == (1, 2)
    assert all(parameter.isfinite().all() for parameter in ghn.parameters())


def test_a_network_that_is_left_out_contributes_nothing() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels, config = torch.arange(4), TrainConfig(network_clip=1e6, gamma=1e-3)

    def gradients(batch: Batch, scale: float) -> dict[str, torch.Tensor]:
        ghn = make_ghn()
        losses, pending = meta_batch_losses(ghn, batch, images, labels, config)
        assert losses.loss.isfinite()
        pending.run()
        return {name: scale * p.grad for name, p in ghn.named_parameters() if p.grad is not None}

    both = make_batch([1, 2])
    forward = both.networks[1].forward
    both.networks[1].forward = lambda x: forward(x) * math.inf  # type: ignore[method-assign]
    found, alone = gradients(both, 1.0), gradients(make_batch([1]), 0.5)
    for name, gradient in alone.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def _phases(digits: ImageTensors) -> list[Phase]:
    def small(start: int) -> Iterator[Batch]:
        for t in count(start):
            yield make_batch([t % 2])  # without attention, which fixes the size of its images

    return [Phase(3, small, digits.subset(range(20)), 8, 1)]


@pytest.mark.parametrize("kill_at", [2, 3, 5])
def test_a_run_resumes_across_a_boundary_of_phases(
    digits: ImageTensors, tmp_path: Path, kill_at: int
) -> None:
    phases = _phases(digits)
    whole = train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path / "whole", phases=phases)
    assert whole.skipped == 0

    class StopError(Exception):
        pass

    def broken(batches: Callable[[int], Iterator[Batch]]) -> Callable[[int], Iterator[Batch]]:
        def from_step(start: int) -> Iterator[Batch]:
            for t, batch in enumerate(batches(start), start):
                if t == kill_at:
                    raise StopError
                yield batch

        return from_step

    cut = [Phase(3, broken(phases[0].meta_batches), phases[0].images, 8, 1)]
    with pytest.raises(StopError):
        train(CONFIG, make_ghn(), broken(meta_batches(2)), digits, tmp_path / "cut", phases=cut)
    train(CONFIG, make_ghn(4), meta_batches(2), digits, tmp_path / "cut", phases=phases)
    names = ("step", "loss", "gradient_norm", "lr")
    for cut_row, row in zip(_rows(tmp_path / "cut"), _rows(tmp_path / "whole"), strict=True):
        assert [cut_row[name] for name in names] == [row[name] for name in names]
    with pytest.raises(ConfigError, match="phases"):
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path / "cut")
    with pytest.raises(ConfigError, match="phases take 6 steps and leave none of steps = 6"):
        train(
            CONFIG, make_ghn(), meta_batches(2), digits, tmp_path / "x",
            phases=[Phase(6, phases[0].meta_batches, digits, 8, 1)],
        )  # fmt: skip


def test_one_flipped_byte_of_a_checkpoint_is_noticed(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path)
    expected = _rows(tmp_path)
    for suffix in ("state", "safetensors", "sha256"):
        path = tmp_path / "checkpoints" / f"step-00000006.{suffix}"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        watcher = _Warnings()
        train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, callbacks=[watcher])
        assert [row["loss"] for row in _rows(tmp_path)] == [row["loss"] for row in expected]
        assert len(watcher.messages) == 1
        assert "step-00000006" in watcher.messages[0]


FULL = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from ghn.train.checkpoint import Checkpoints, RunState

def weights(path, metadata):
    path.parent.mkdir(exist_ok=True)
    save_file({"x": torch.zeros(8)}, path)

def state(step, size):
    return RunState(step, {}, (9, 9), {"m": torch.rand(size)}, {}, {})

found = Checkpoints(Path(sys.argv[1]), 2, weights)
found.save(state(1, 8))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    found.save(state(2, 100_000))
except OSError as error:
    print(Path(error.filename).name, error.strerror)
print(found.load({}, (9, 9), print).state.step)
"""


def test_a_full_disk_names_the_state_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["step-00000002.state File too large", "1"]
    assert not list(tmp_path.rglob(".tmp-*"))


def _weights(path: Path, _: object) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({"x": torch.zeros(8)}, path)


def _state(config: TrainConfig, step: int) -> RunState:
    return RunState(step, config.recipe(), config.horizon, {}, {}, {})


def _step(checkpoints: Checkpoints, config: TrainConfig) -> int:
    found = checkpoints.load(config.recipe(), config.horizon, lambda _: None)
    assert found is not None
    return found.state.step


def test_a_longer_run_keeps_its_checkpoints_not_those_it_passed_over(tmp_path: Path) -> None:
    short, long = (
        TrainConfig(steps=steps, schedule="constant", decay_steps=10) for steps in (600, 900)
    )
    first = Checkpoints(tmp_path, 2, _weights, short.horizon[1])
    for step in (500, 590, 595, 600):
        first.save(_state(short, step))
    second = Checkpoints(tmp_path, 2, _weights, long.horizon[1])
    assert _step(second, long) == 590
    assert second.save(_state(long, 592)).exists()
    assert _step(second, long) == 592
    assert {path.stem for path in tmp_path.iterdir()} == {"step-00000590", "step-00000592"}


def test_a_run_that_fell_back_keeps_what_it_writes(tmp_path: Path) -> None:
    Checkpoints(tmp_path, 1, _weights).save(_state(CONFIG, 2))
    Checkpoints(tmp_path, 2, _weights).save(_state(CONFIG, 4))
    (tmp_path / "step-00000004.state").write_bytes(b"x")
    checkpoints = Checkpoints(tmp_path, 1, _weights)
    assert _step(checkpoints, CONFIG) == 2
    checkpoints.save(_state(CONFIG, 3))
    assert _step(checkpoints, CONFIG) == 3
    assert {path.stem for path in tmp_path.iterdir()} == {"step-00000003"}


def test_other_ranks_go_on_with_a_run_and_say_so(digits: ImageTensors, tmp_path: Path) -> None:
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path)
    stem = tmp_path / "checkpoints" / "step-00000006"
    state = torch.load(stem.with_suffix(".state"), weights_only=True)
    state["counters"]["world"] = 4.0
    torch.save(state, stem.with_suffix(".state"))
    files = (stem.with_suffix(".safetensors"), stem.with_suffix(".state"))
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    stem.with_suffix(".sha256").write_text(lines)
    watcher = _Warnings()
    train(CONFIG, make_ghn(), meta_batches(2), digits, tmp_path, callbacks=[watcher])
    assert len(watcher.messages) == 1
    assert watcher.messages[0].startswith("1 ranks go on with what 4 began")


def test_a_sigterm_after_a_ctrl_c_waits_for_the_step(digits: ImageTensors, tmp_path: Path) -> None:
    def slow(start: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(start), start):
            if t == 2:
                forward = batch.networks[0].forward

                def asked_twice(
                    x: torch.Tensor, f: Callable[..., torch.Tensor] = forward
                ) -> object:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(3.2)  # longer than a launcher takes to pass on what we got
                    os.kill(os.getpid(), signal.SIGTERM)
                    return f(x)

                batch.networks[0].forward = asked_twice  # type: ignore[method-assign]
            yield batch

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3; the same command continues"):
        train(CONFIG, make_ghn(), slow, digits, tmp_path)
    assert (tmp_path / "checkpoints" / "step-00000003.sha256").is_file()


def test_a_last_evaluation_that_is_done_again_stands_once(
    digits: ImageTensors, tmp_path: Path
) -> None:
    for _ in range(2):
        train(
            CONFIG, make_ghn(), meta_batches(2), digits, tmp_path,
            evaluate=lambda ghn: {"accuracy": math.nan},
        )  # fmt: skip
    curve = read_log(tmp_path / "curve.jsonl")
    assert curve == [{"step": 6, "accuracy": None}]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "could not create a primitive",
    ],
)
def test_what_counts_as_out_of_memory(message: str) -> None:
    assert out_of_memory(RuntimeError(message)).startswith("out of memory (")
    with pytest.raises(RuntimeError, match="shape"):
        out_of_memory(RuntimeError("shape mismatch"))


def test_deterministic_runs_take_the_same_steps(digits: ImageTensors, tmp_path: Path) -> None:
    short = CONFIG.model_copy(update={"steps": 2})
    seen: list[bool] = []

    class Look(Callback):
        def on_step(self, training: Training, record: object) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    for name in ("a", "b"):
        config = short.model_copy(update={"deterministic": name == "a"})
        train(config, make_ghn(), meta_batches(2), digits, tmp_path / name, callbacks=[Look()])
    assert seen == [True, True, False, False]
    assert not torch.are_deterministic_algorithms_enabled()
    losses = [[row["loss"] for row in _rows(tmp_path / name)] for name in ("a", "b")]
    assert losses[0] == losses[1]
