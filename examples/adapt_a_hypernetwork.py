"""Adapt the hypernetwork of the package to your images and your kind of network.

    python examples/adapt_a_hypernetwork.py                           # digits, 200 steps
    python examples/adapt_a_hypernetwork.py path/to/images 500 adapted

Stopped and started again with the same arguments it resumes.
"""

import sys
from collections import namedtuple
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from torch import nn

import ghn
from datasets.images import load
from ghn.finetune import FinetuneConfig, evaluate
from ghn.train import ProgressBar, TrainConfig, train

source, steps, out = (sys.argv[1:] + ["digits", "200", "adapted"][len(sys.argv) - 1 :])[:3]
images, held_out = load(source, split="train"), load(source, split="val")


# Your kind of network, with what varies as arguments: here plain CNNs.
def network(width: int, depth: int, kernel: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(depth):
        convolution = nn.Conv2d(width if i else 3, width, kernel, 1 + i % 2, kernel // 2)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    head = nn.Linear(width, images.num_classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


known = [network(w, d, k) for w in (16, 32) for d in (2, 4) for k in (3, 5)]

# A step of training takes a meta-batch: a few networks, and their graphs as one batch.
MetaBatch = namedtuple("MetaBatch", "graphs networks index")


def meta_batches(step: int) -> Iterator[MetaBatch]:
    """Pairs of networks from `step` on, without end."""
    for i in count(step):
        chosen = (5 * i % len(known), (5 * i + 3) % len(known))
        graphs = ghn.GraphBatch.from_graphs([ghn.trace(known[k]) for k in chosen])
        yield MetaBatch(graphs, [known[k] for k in chosen], chosen)


# How good it is: a network that training does not meet, with predicted parameters alone.
def accuracy(hypernetwork: ghn.GHN) -> float:
    return evaluate(hypernetwork(network(32, 3, 3)), held_out, FinetuneConfig(), images)


hypernetwork = ghn.from_pretrained()
print(f"before: {accuracy(hypernetwork):.1%}")
sizes = {"meta_batch_size": 2, "batch_size": 32}
recipe = TrainConfig(steps=int(steps), warmup_steps=5, lr=3e-3, network_clip=0.5, **sizes)
result = train(recipe, hypernetwork, meta_batches, images, Path(out), callbacks=[ProgressBar()])
print(f"after {steps} steps: {accuracy(hypernetwork):.1%}, in {result.weights}")
