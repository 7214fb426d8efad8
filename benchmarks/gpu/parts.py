"""The parts of `run.py`, each a process: `python benchmarks/gpu/parts.py NAME --device cuda ...`.

Each prints lines of JSON, {"found": {...}}, as soon as it knows something.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from beside import compared, timed_reference
from setting import CIFAR, IMAGENET, TINY, TINY_LARGE, Setting, Size, drawn, say, timed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_memory import Plan, planned

from datasets.deepnets import meta_batches as loaded
from datasets.images import load
from datasets.images.sources.find import MissingImagesError
from ghn.architectures import TORCHVISION_74, build
from ghn.finetune import FinetuneConfig, finetune
from ghn.models import GHN, GHNConfig
from ghn.tracing.run import trace
from ghn.train import Callback, StepRecord, TrainConfig, Training, ranks, train
from ghn.train.data import StepData
from ghn.train.distributed import Ranks
from ghn.train.precision import tensor_float
from ghn.train.step import MetaBatch
from ghn.train.update import Updates


def alone(networks: Sequence[nn.Module], x_BCHW: Tensor, y_B: Tensor) -> Callable[[], None]:
    """The same networks with parameters of their own: forward and backward."""
    own = [
        {
            name: torch.randn(parameter.shape, device=x_BCHW.device).mul_(0.05).requires_grad_()
            for name, parameter in network.named_parameters()
        }
        for network in networks
    ]

    def step() -> None:
        for network, parameters in zip(networks, own, strict=True):
            logits = torch.func.functional_call(network, parameters, (x_BCHW,))
            torch.autograd.grad(
                cross_entropy(logits, y_B), list(parameters.values()), allow_unused=True
            )

    return step


def step(setting: Setting, size: Size, amp: str) -> None:
    """Step time beside the networks alone, waits, busy share and memory."""
    device = setting.device
    x_BCHW = torch.randn(size.b, 3, size.pixels, size.pixels, device=device)
    x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
    y_B = torch.randint(size.classes, (size.b,), device=device)
    batches, times, apart, theirs = drawn(size), list[float](), list[float](), list[float]()
    ghn = size.hypernetwork().to(device)
    other = compared(setting, size, ghn.config)
    config = TrainConfig(meta_batch_size=size.m, batch_size=size.b, amp=amp)  # type: ignore[arg-type]
    updates = Updates(ghn, config, Ranks(device=device))
    end = time.perf_counter() + setting.seconds
    with tensor_float(True, device):
        for number in range(200):
            batch: MetaBatch = batches[number]
            list(batch.networks)
            data = StepData(x_BCHW, y_B, batch)
            for kept in (False, True):  # the first time makes kernels and memory
                seconds = timed(partial(updates.take, number, data), device)
                networks = timed(alone(batch.networks, x_BCHW, y_B), device)
                reference = timed_reference(other, batch, x_BCHW, y_B, amp) if other else None
                if kept:
                    times.append(seconds)
                    apart.append(networks)
                    theirs += [reference] if reference is not None else []
            if time.perf_counter() > end or (setting.tiny and number):
                break
        mean = statistics.mean(times)
        say(
            step_seconds=mean,
            networks_alone_seconds=statistics.mean(apart),
            ratio=mean / statistics.mean(apart),
            network_images_per_second=size.m * size.b / mean,
            steps=len(times),
        )
        if theirs:
            spent = statistics.mean(theirs)
            say(reference_seconds=spent, reference_ratio=spent / mean, reference_steps=len(theirs))
        plan = planned(ghn.config, batch, size.pixels, config)
        say(plan_bytes=plan.peak, plan=asdict(plan))
        if device.type == "cuda":
            _on_card(lambda: updates.take(0, data), device, plan)


def _on_card(take: Callable[[], object], device: torch.device, plan: Plan) -> None:
    """Waits, memory and the share of time that kernels run."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)  # other contenders' among it
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        take()
    torch.cuda.set_sync_debug_mode("default")
    peak = torch.cuda.max_memory_allocated(device)
    taken = peak - before + plan.weights + plan.moments + plan.images
    say(
        synchronisations=sum("synchroniz" in str(warning.message) for warning in caught),
        peak_bytes=peak,
        step_bytes=taken,
        memory_against_plan=taken / plan.peak,
        card=torch.cuda.get_device_name(device),
        torch=torch.__version__,
        cuda=torch.version.cuda,
    )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds = timed(take, device)
    kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    say(busy=kernels / seconds)


def predict(setting: Setting) -> None:
    """Seconds to predict networks of torchvision with GHN-3-T and XL."""
    device, end = setting.device, time.perf_counter() + setting.seconds
    names = TORCHVISION_74[:2] if setting.tiny else TORCHVISION_74
    for variant in ("ghn3-t",) if setting.tiny else ("ghn3-t", "ghn3-xl"):
        ghn = GHN(GHNConfig.variant(variant, 1000)).to(device)
        seconds: dict[str, float] = {}
        for name in ("resnet50", *names):
            if time.perf_counter() > end:
                break
            graph = trace(build(name, device="meta"))
            model = build(name, device=device)
            for _twice in range(2):
                seconds[name] = timed(partial(ghn.initialize, model, graph), device)
            say(**{variant: {"networks": len(seconds), "resnet50": seconds["resnet50"]}})
        say(**{f"{variant} seconds": seconds})


def tuned(setting: Setting) -> None:
    """Fine-tuning of 16 networks, one after the other; several processes share them and the card.

    Rates of processes that run at once add up.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    images = load("digits", cache=None)
    steps = 2 if setting.tiny else 100
    trained, spent = 0, 0.0
    rates: dict[str, float] = {}
    end = time.perf_counter() + setting.seconds
    names = ("resnet18", "mobilenet_v2", "densenet121", "vit_b_16") * 4
    for number, name in enumerate(names):
        if time.perf_counter() > end or (setting.tiny and rates):
            break
        if number % world != rank:
            continue
        model = build(name, 10, images.image_size).to(setting.device)
        sizes = {"batch_size": 16, "statistics_images": 16} if setting.tiny else {"batch_size": 128}
        config = FinetuneConfig(steps=steps, amp=True, **sizes)
        curve = finetune(model, images, images.subset(range(16)), config)
        rates[f"{name} {number}"] = curve.steps_per_second * config.batch_size
        trained += steps * config.batch_size
        spent += steps / curve.steps_per_second
        say(**{
            f"images_per_second of process {rank} of {world}": trained / spent,
            f"networks of process {rank} of {world}": rates,
        })  # fmt: skip


class _Until(Callback):
    """Ends a training when its time is over, and says how fast it was."""

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds

    def on_step(self, training: Training, record: StepRecord) -> None:
        """Looks at the clock."""
        if time.perf_counter() > self.end:
            training.stop()

    def on_report(self, training: Training, record: StepRecord) -> None:
        """Reports speed and accuracy."""
        say(
            network_images_per_second=record.images_per_second,
            step=record.step,
            accuracy=record.accuracy,
            loss=record.loss,
            waited=record.waited,
        )


def trained(setting: Setting, name: str) -> None:
    """A CIFAR-size training for the time there is; weights are in `--out`."""
    size = TINY if setting.tiny else CIFAR
    try:
        images = load("cifar10", cache=None)
    except MissingImagesError:
        images = load("digits", cache=None)
    size = Size(size.m if not setting.tiny else 4, size.b, images.image_size, size.channels, 10)
    with ranks(setting.device.type) as group:
        torch.manual_seed(1)
        batches = drawn(size, world=group.world, rank=group.rank, n=200 if setting.tiny else 2000)
        pinned = setting.device.type == "cuda"
        config = TrainConfig(
            steps=4 if setting.tiny else 1_000_000,
            schedule="constant",
            warmup_steps=2 if setting.tiny else 200,
            lr=2e-3,
            ema=0.999,
            network_clip=0.5,
            meta_batch_size=size.m,
            batch_size=size.b,
            log_every=2 if setting.tiny else 20,
            checkpoint_every=1_000_000,
        )
        # A directory of its own: a training goes on with what it finds.
        kept = setting.out if name == "train" and group.is_main else None
        output = Path(tempfile.mkdtemp(prefix="trained-", dir=kept))
        result = train(
            config,
            size.hypernetwork(),
            lambda start: loaded(batches, start, 0 if setting.tiny else 2, pinned),
            images,
            output,
            callbacks=[_Until(setting.seconds)],
            ranks=group,
        )
        if group.is_main:
            say(ranks=group.world, images=images.name, weights=str(result.weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--reference", nargs="*", default=[], metavar="NAME=PATH")
    options = parser.parse_args()
    checkouts = {name: Path(path) for name, path in (p.split("=", 1) for p in options.reference)}
    setting = Setting(
        torch.device(options.device), options.tiny, options.out, options.seconds, checkouts
    )
    match options.name:
        case "step-cifar":
            step(setting, TINY if setting.tiny else CIFAR, "off")
        case "step-imagenet":
            step(setting, TINY_LARGE if setting.tiny else IMAGENET, "bf16")
        case "predict":
            predict(setting)
        case "finetune" | "finetune-4":
            tuned(setting)
        case name:
            trained(setting, name)


if __name__ == "__main__":
    main()
