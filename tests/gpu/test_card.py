"""What a card must do as a CPU does: `pytest -m gpu`, or `GHN_GPU_TESTS=cpu pytest -m gpu` to try
the tests themselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from train_setting import Batch, make_batch, make_ghn, meta_batches

from datasets.images import ImageTensors, load
from ghn import load_checkpoint
from ghn.architectures import build
from ghn.finetune import FinetuneConfig, finetune
from ghn.models import GHN
from ghn.models.batch import GraphBatch
from ghn.tracing.run import trace
from ghn.train import TrainConfig, meta_batch_losses, train
from ghn.train.data import on_device
from ghn.train.distributed import Ranks
from ghn.train.precision import tensor_float

pytestmark = pytest.mark.gpu
NAME = os.environ.get("GHN_GPU_TESTS", "cuda")
if NAME == "cuda" and not torch.cuda.is_available():
    pytestmark = [
        pytest.mark.gpu,
        pytest.mark.skip(reason="no CUDA device here; GHN_GPU_TESTS=cpu tries the tests on a CPU"),
    ]
on_card = pytest.mark.skipif(NAME == "cpu", reason="of a card only")
DEVICE = torch.device("cuda", 0) if NAME == "cuda" else torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("resnet50", "vit_b_16", "swin_b", "squeezenet1_1", "googlenet", "densenet169")
FILES = {"ghn3": "ghn3_h32_l3_k8_c1000.safetensors", "ghn2": "ghn2_h32_c1000.safetensors"}


@pytest.fixture(scope="module")
def digits() -> ImageTensors:
    return load("digits", cache=None)


def _data(b: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(b, 3, 32, 32, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.arange(b) % 10


def _predicted(ghn: GHN, name: str, device: torch.device) -> dict[str, Tensor]:
    model: nn.Module = build(name, device="meta")
    state = ghn.to(device).predict(model, trace(model))
    return {key: tensor.cpu() for key, tensor in state.items()}


@pytest.mark.golden
@pytest.mark.parametrize("kind", FILES)
def test_predictions_are_the_golden_ones(kind: str, golden_root: Path) -> None:
    ghn = load_checkpoint(golden_root / FILES[kind])
    with (golden_root / "torchvision.jsonl").open() as file:
        records: dict[str, Any] = {record["arch"]: record for record in map(json.loads, file)}
    for name in NETWORKS:
        state = _predicted(ghn, name, DEVICE)
        for parameter, expected in records[name][kind].items():
            if expected is None or parameter.endswith("pos_embedding"):
                continue
            norm = float(state[parameter].double().norm())
            assert norm == pytest.approx(expected[0], rel=1e-4), f"{name}: {parameter}"


@pytest.mark.golden
@on_card
def test_tf32_is_within_its_bound_of_the_cpu(golden_root: Path) -> None:
    ghn = load_checkpoint(golden_root / FILES["ghn3"])
    exact = _predicted(ghn, "resnet50", torch.device("cpu"))
    with tensor_float(True, DEVICE):
        found = _predicted(ghn, "resnet50", DEVICE)
    for name, tensor in exact.items():
        assert (found[name] - tensor).norm() <= 1e-2 * tensor.norm() + 1e-6, name


@pytest.mark.golden
@pytest.mark.parametrize(
    ("half", "bound"),
    [(torch.bfloat16, 0.03), pytest.param(torch.float16, 0.01, marks=on_card)],
    ids=str,
)
def test_half_precision_is_within_its_bound_of_the_cpu(
    half: torch.dtype, bound: float, golden_root: Path
) -> None:
    """Of message passing; decoders stay in float32."""
    ghn = load_checkpoint(golden_root / FILES["ghn3"])
    batch = GraphBatch.from_graphs([trace(build("resnet50", device="meta"))])
    exact = ghn(batch).parameters[0]
    with torch.autocast(DEVICE.type, half):
        found = ghn.to(DEVICE)(batch).parameters[0]
    for name, tensor in exact.items():
        assert (found[name].cpu() - tensor).norm() <= bound * tensor.norm() + 1e-6, name


def _step(device: torch.device, **recipe: Any) -> tuple[float, dict[str, Tensor]]:
    ghn = make_ghn().to(device)
    x_BCHW, y_B = _data()
    batch = on_device(make_batch([0, 1, 2]), device)
    config = TrainConfig(meta_batch_size=3, batch_size=8, **recipe)
    losses, pending = meta_batch_losses(ghn, batch, x_BCHW.to(device), y_B.to(device), config)
    pending.run()
    gradients = {n: p.grad.cpu() for n, p in ghn.named_parameters() if p.grad is not None}
    return float(losses.cross_entropy), gradients


def test_a_step_is_the_cpu_s_step() -> None:
    loss, gradients = _step(torch.device("cpu"))
    on_device_loss, on_device_gradients = _step(DEVICE)
    assert on_device_loss == pytest.approx(loss, rel=1e-4)
    whole = torch.cat([g.flatten() for g in gradients.values()])
    apart = torch.cat(
        [on_device_gradients[n].flatten() - g.flatten() for n, g in gradients.items()]
    )
    assert apart.norm() <= 1e-3 * whole.norm()


@pytest.mark.parametrize("amp", ["bf16", pytest.param("fp16", marks=on_card)])
def test_a_step_in_half_precision_is_close(amp: str) -> None:
    assert _step(DEVICE, amp=amp)[0] == pytest.approx(_step(torch.device("cpu"))[0], rel=0.05)


def _train(output: Path, digits: ImageTensors, steps: int, stop: int = 0, **recipe: Any) -> GHN:
    config = TrainConfig(
        steps=steps,
        meta_batch_size=2,
        batch_size=8,
        warmup_steps=1,
        schedule="constant",
        checkpoint_every=2,
        seed=1,
        **recipe,
    )
    ghn = make_ghn()
    train(config, ghn, meta_batches(2), digits, output, ranks=Ranks(device=DEVICE))
    return ghn


@pytest.mark.parametrize("deterministic", [True, pytest.param(False, marks=on_card)])
def test_a_run_resumes_as_if_it_had_not_stopped(
    tmp_path: Path, digits: ImageTensors, deterministic: bool
) -> None:
    whole = _train(tmp_path / "whole", digits, 4, deterministic=deterministic)
    _train(tmp_path / "parts", digits, 2, deterministic=deterministic)
    resumed = _train(tmp_path / "parts", digits, 4, deterministic=deterministic)
    for name, weight in whole.state_dict().items():
        bound = {"rtol": 0.0, "atol": 0.0} if deterministic else {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(resumed.state_dict()[name], weight, **bound, msg=name)


def test_a_step_that_does_not_fit_is_skipped(tmp_path: Path, digits: ImageTensors) -> None:
    def batches(step: int) -> Iterator[Batch]:
        for t, batch in enumerate(meta_batches(2)(step), step):
            if t == 1:
                batch.networks[0].forward = lambda _x: torch.empty(  # type: ignore[method-assign]
                    2**58, dtype=torch.uint8, device=DEVICE
                )
            yield batch

    config = TrainConfig(steps=3, meta_batch_size=2, batch_size=8, warmup_steps=1)
    result = train(config, make_ghn(), batches, digits, tmp_path, ranks=Ranks(device=DEVICE))
    assert result.skipped == 1


def test_two_ranks_share_a_card_and_have_the_gradients_of_one(tmp_path: Path) -> None:
    worker = ROOT / "tests" / "ghn" / "train" / "rank_worker.py"
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        command = [sys.executable, *(launcher if world > 1 else []), str(worker), str(tmp_path)]
        done = subprocess.run(
            [*command, "clean", NAME],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one = torch.load(tmp_path / "gradients-1-0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(tmp_path / f"gradients-2-{rank}.pt", weights_only=True)
        for name, gradient in one.items():
            torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_fine_tuning_learns(digits: ImageTensors) -> None:
    torch.manual_seed(0)
    model = build("resnet18", 10, digits.image_size).to(DEVICE)
    config = FinetuneConfig(steps=6, batch_size=32, lr=0.02, amp="bf16", evaluation_batch=64)
    curve = finetune(model, digits, digits.subset(range(64)), config)
    assert curve.step[-1] == 6
    assert not curve.diverged


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # PyTorch's own
def test_the_hypernetwork_compiles() -> None:
    ghn = make_ghn().to(DEVICE)
    batch = make_batch([0, 1]).graphs.to(DEVICE)
    expected = ghn.embed(batch)
    # Without a card no compiler is asked for, but what it would be given is traced.
    backend = "inductor" if NAME == "cuda" else "aot_eager"
    compiled = torch.compile(ghn.message_passing, backend=backend)
    found = ghn.norm(compiled(ghn.embedding(batch), batch))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    found.sum().backward()
    assert ghn.message_passing.layers[0].up.weight.grad.isfinite().all()
