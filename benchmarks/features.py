"""What networks with predicted parameters see before their last layer, and how much of it the
predicted last layer uses.

    python benchmarks/features.py --params params.yaml ghn3-cifar10 models/ghn3/ghn.safetensors

For each hypernetwork, for its base alone where it has one (`GHNConfig.base`), and for random
parameters, over the first architectures of val: the accuracy as predicted, that with the best
linear last layer of the network's own (ridge regression on training images), and the effective rank
of the features, (sum of singular values)^2 / sum of their squares, of 1 to as many as there are
features: 2 or 3 mean that a network tells hardly more than two or three things apart. Batch norm
uses batch statistics, batches of 64. Run where `ghn generate --split val` and `ghn images` have
left their files.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from flows.networks.build import build_network
from flows.networks.score import score
from flows.networks.targets import target
from flows.params import load_params
from flows.stages.images import load_split
from flows.training.phases import resized
from ghn import from_pretrained
from ghn.models import GHN
from ghn.predict import batch_statistics

RIDGE = 1e-3
"""Of standardised features."""

Batches = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def features(model: nn.Module, batches: Batches) -> Tensor:
    """(I, F) inputs of the last linear layer."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    found: list[Tensor] = []
    handle = last.register_forward_hook(lambda _, inputs, __: found.append(inputs[0]))
    with batch_statistics(model):
        for images, _ in batches:
            model(images)
    handle.remove()
    return torch.cat(found).flatten(1).double()


def effective_rank(features_IF: Tensor) -> float:
    """Of the features around their mean."""
    values = torch.linalg.svdvals(features_IF - features_IF.mean(0))
    return float(values.sum().square() / values.square().sum())


def own_head(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Accuracy on test features of the linear layer that fits the training features best."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6

    def standardised(found: Tensor) -> Tensor:
        return torch.nn.functional.pad((found - mean) / deviation, (0, 1), value=1.0)

    a_IF = standardised(train)
    penalty = RIDGE * len(a_IF) * torch.eye(a_IF.shape[1], dtype=a_IF.dtype)
    weight_FK = torch.linalg.solve(a_IF.T @ a_IF + penalty, a_IF.T @ one_hot(labels).double())
    return float(((standardised(test) @ weight_FK).argmax(1) == test_labels).double().mean())


@torch.no_grad()
def base_alone(ghn: GHN) -> GHN:
    """The same hypernetwork, which predicts nothing beside its base."""
    for name, parameter in ghn.named_parameters():
        if name.startswith(("tensors.", "vectors.")):
            parameter.zero_()
    return ghn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="*", help="hypernetworks, as ghn.from_pretrained has them")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--architectures", type=int, default=24)
    parser.add_argument("--pixels", type=int, help="by default those of section images")
    parser.add_argument("--train-images", type=int, default=4096)
    parser.add_argument("--test-images", type=int, default=1024)
    options = parser.parse_args()
    params = load_params(options.params)
    seed, size = params.base.seed, options.pixels or params.images.image_size
    train, test = (
        list(
            resized(load_split(params.images, seed, name), size)
            .subset(range(n))
            .batches(64, shuffle=False)
        )
        for name, n in (("train", options.train_images), ("test", options.test_images))
    )
    labels, test_labels = (torch.cat([y_B for _, y_B in found]) for found in (train, test))
    candidates: list[tuple[str, GHN | None]] = [("random parameters", None)]
    for name in options.weights:
        ghn = from_pretrained(name)
        candidates.append((name, ghn))
        if ghn.config.base != "zero":
            candidates.append((f"{name}: its base alone", base_alone(from_pretrained(name))))
    print("| parameters | as predicted | with a last layer of its own | effective rank, median |")
    print("|---|---|---|---|")
    for name, hypernetwork in candidates:
        found = []
        for number in range(options.architectures):
            torch.manual_seed(seed)
            network, graph = build_network(target(f"deepnets1m/val/{number}"), 10, size)
            model = network if hypernetwork is None else hypernetwork(network, graph)
            seen, unseen = features(model, train), features(model, test)
            found.append(
                (
                    score(model, test).accuracy,
                    own_head(seen, labels, unseen, test_labels),
                    effective_rank(seen),
                )
            )
        accuracy, own, rank = zip(*found, strict=True)
        print(
            f"| {name} | {statistics.mean(accuracy):.1%} | {statistics.mean(own):.1%}"
            f" | {statistics.median(rank):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
