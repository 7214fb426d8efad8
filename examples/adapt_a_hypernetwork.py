"""Adapt the hypernetwork of the package to your images and your kind of network.

    python examples/adapt_a_hypernetwork.py                           # digits, 60 steps
    python examples/adapt_a_hypernetwork.py path/to/images 500 adapted

Stopped and started again with the same arguments it resumes.
"""

import itertools
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

from torch import nn

import ghn
from datasets.images import load
from ghn.finetune import FinetuneConfig, evaluate
from ghn.train import ProgressBar, TrainConfig, train

source, steps, out = (sys.argv[1:] + ["digits", "60", "adapted"][len(sys.argv) - 1 :])[:3]
images, held_out = (load(source, split=split) for split in ("train", "val"))


# Your kind of network, with what varies as arguments: here plain CNNs.
def network(width: int, depth: int, kernel: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(width if i else 3, width, kernel, 1 + i % 2, kernel // 2))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


known = [network(*how) for how in itertools.product((16, 32), (2, 4), (3, 5))]


# A step of training takes a meta-batch: a few networks, and their graphs as one batch.
MetaBatch = namedtuple("MetaBatch", "graphs networks index")


def meta_batches(step: int) -> Iterator[MetaBatch]:
    """Pairs of networks from `step` on, without end."""
    for i in itertools.count(step):
        chosen = (5 * i % len(known), (5 * i + 3) % len(known))
        graphs = ghn.GraphBatch.from_graphs([ghn.trace(known[k]) for k in chosen])
        yield MetaBatch(graphs, [known[k] for k in chosen], chosen)


# How good it is: a network that training does not meet, with predicted parameters alone.
def accuracy(hypernetwork: ghn.GHN) -> float:
    return evaluate(hypernetwork(network(32, 3, 3)), held_out, FinetuneConfig(), images)


hypernetwork = ghn.from_pretrained()
print(f"before: {accuracy(hypernetwork):.1%}")
recipe = TrainConfig(steps=int(steps), warmup_steps=5, lr=1e-3, meta_batch_size=2, batch_size=32)
result = train(recipe, hypernetwork, meta_batches, images, Path(out), callbacks=[ProgressBar()])
adapted = ghn.from_pretrained(result.weights)  # as does `ghn init --from` with this file
print(f"after {steps} steps: {accuracy(adapted):.1%}, in {result.weights}")
