"""How many small networks can be fine-tuned per hour: one after the other, in processes, or batched
with torch.func.

    python benchmarks/finetune_throughput.py [--networks 8] [--steps 10] [--architecture NAME]
    [--out FILE]

All three train the same number of copies of one architecture from different seeds on the same
images with the same SGD: `plain` in a loop, `processes` as `flows.compute.fanout` does (one thread
each), `batched` with their parameters stacked and `vmap(grad(loss))` over them (one process, all
threads). Batching needs equal architectures; the other two do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from datasets.images import load
from flows.compute.fanout import FanOut, fan_out
from ghn.architectures import build
from ghn.finetune import FinetuneConfig, finetune

CONFIG = FinetuneConfig(steps=10, lr=0.01, batch_size=64, statistics_images=64)


def network(architecture: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(architecture, 10, 32)


class Train:
    """Trains one network; evaluations are kept to a minimum so that the steps are what is
    measured.
    """

    def __init__(self, architecture: str, steps: int) -> None:
        self.architecture = architecture
        self.config = CONFIG.model_copy(update={"steps": steps})

    def __call__(self, seed: int) -> tuple[float, float, float]:
        """When training began and ended (seconds of the wall clock), and the processor seconds in
        between.
        """
        train = load("digits", split="train", cache=None)
        model = network(self.architecture, seed)
        began, used = time.time(), time.process_time()
        finetune(model, train, train.subset(range(8)), self.config, seed=0)
        return began, time.time(), time.process_time() - used


def plain(architecture: str, networks: int, steps: int) -> float:
    return sum(
        ended - began for began, ended, _ in map(Train(architecture, steps), range(networks))
    )


def processes(architecture: str, networks: int, steps: int, workers: int) -> tuple[float, float]:
    """Seconds from the first beginning to the last end, starting workers left out, and mean
    processor seconds.
    """
    began, ended, used = zip(
        *fan_out(Train(architecture, steps), range(networks), FanOut(workers=workers)), strict=True
    )
    return max(ended) - min(began), sum(used) / len(used)


def batched(architecture: str, networks: int, steps: int) -> float:
    train = load("digits", split="train", cache=None)
    models = [network(architecture, seed) for seed in range(networks)]
    # vmap cannot update running statistics in place; batch statistics train the same weights
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    started = time.perf_counter()
    parameters, buffers = stack_module_state(models)
    parameters = {name: value.detach() for name, value in parameters.items()}
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    base = models[0].train()

    def loss(parameters, buffers, x, y):
        return functional.cross_entropy(functional_call(base, (parameters, buffers), (x,)), y)

    step = vmap(grad_and_value(loss), in_dims=(0, 0, None, None), randomness="different")
    done = 0
    epoch = 0
    while done < steps:
        for x, y in train.batches(CONFIG.batch_size, 0, epoch, drop_last=True):
            gradients, _ = step(parameters, buffers, x, y)
            for name, value in parameters.items():
                gradient = gradients[name] + CONFIG.weight_decay * value
                velocity[name].mul_(CONFIG.momentum).add_(gradient)
                value.sub_(CONFIG.lr * velocity[name])
            done += 1
            if done == steps:
                break
        epoch += 1
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--architecture", default="shufflenet_v2_x0_5")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))  # those that this process may use
    arguments = (options.architecture, options.networks, options.steps)
    result: dict[str, object] = {
        "machine": (
            f"{platform.processor() or platform.machine()}, {cores} cores, load"
            f" {os.getloadavg()[0]:.1f}"
        ),
        "torch": torch.__version__,
        "architecture": options.architecture,
        "networks": options.networks,
        "steps": options.steps,
    }
    for name, value in result.items():
        print(f"{name:<40}{value}", flush=True)

    def report(name: str, seconds: float) -> None:
        result[name] = seconds
        print(
            f"{name:<40}{seconds:8.1f} s{options.networks * 3600 / seconds:10.0f} networks an hour",
            flush=True,
        )

    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        report(f"plain, {threads} threads", plain(*arguments))
    seconds, cpu = processes(*arguments, workers=cores)
    report(f"{cores} processes of one thread", seconds)
    result["processor seconds of a network"] = cpu
    print(f"{'processor seconds of a network':<40}{cpu:8.1f} s")
    torch.set_num_threads(cores)
    report(f"batched, {cores} threads", batched(*arguments))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
