"""What a training step keeps in memory, per GPU, and whether parameters must be sharded.

    python benchmarks/train_memory.py --variants ghn3-t ghn3-xl --graphs 2

Weights, gradients and both moments of AdamW are counted from the hypernetwork on the meta device.
What the forward pass keeps for the backward pass is what autograd saves: of the hypernetwork, run
on the CPU on real graphs of the training split's rules; of the target networks, run on the meta
device at 224 pixels. No GPU is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from datasets.deepnets import Architecture, Network, build_graph
from datasets.deepnets.space.rules import PUBLISHED
from datasets.deepnets.space.sampling import draw
from datasets.deepnets.space.table import decode_row
from ghn.errors import InvalidGraphError
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch

MB = 2**20


def saved_bytes(run: Callable[[], object]) -> int:
    """Bytes of all storages that autograd keeps for the backward pass of `run`."""
    storages: dict[int, int] = {}
    alive: list[
        Tensor
    ] = []  # storages must not be freed and their addresses used again while we count

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            storages[storage._cdata] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(storages.values())


def draw_architectures(n: int, seed: int) -> list[Architecture]:
    found: list[Architecture] = []
    for row in draw(PUBLISHED["train"], 20 * n, np.random.default_rng(seed)).table.encode():
        architecture = decode_row(row.tobytes())
        try:
            build_graph(architecture)
        except InvalidGraphError:
            continue
        found.append(architecture)
    return found[:n]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=["ghn3-t", "ghn3-s"])
    parser.add_argument("--graphs", type=int, default=2, help="architectures per GPU, m/g")
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument(
        "--networks", type=int, default=100, help="target networks to take the largest of"
    )
    parser.add_argument("--channels", type=int, default=64)
    options = parser.parse_args()
    architectures = draw_architectures(max(options.graphs, options.networks), 1)
    largest = 0
    for architecture in architectures[: options.networks]:
        network = Network(architecture, options.channels, 256, 1000, 224, device="meta")
        images = torch.empty(options.batch, 3, 224, 224, device="meta")
        largest = max(largest, saved_bytes(lambda n=network, x=images: n(x)))
    print(
        f"target networks: up to {largest / MB:,.0f} MB of activations in float32 "
        f"(b={options.batch}, 224 pixels, C={options.channels}, {options.networks} architectures); "
        "one network at a time\n"
    )
    graphs = [
        build_graph(a, options.channels, 256, 1000, 224) for a in architectures[: options.graphs]
    ]
    nodes = [graph.n_nodes for graph in graphs]
    print(f"graphs per GPU: {options.graphs}, nodes {nodes}\n")
    print(
        "| variant | parameters | weights, gradients, AdamW (MB) | kept by the hypernetwork (MB) |"
        " predicted (MB) |"
    )
    print("|---|---|---|---|---|")
    for name in options.variants:
        config = GHNConfig.variant(name)
        with torch.device("meta"):
            n = sum(parameter.numel() for parameter in GHN(config).parameters())
        ghn = GHN(config)
        batch = GraphBatch.from_graphs(graphs)
        kept = saved_bytes(lambda g=ghn, b=batch: g(b).parameters)
        with torch.no_grad():
            parameters = [p for network in ghn(batch).parameters for p in network.values()]
        predicted = sum(parameter.nbytes for parameter in parameters)
        print(
            f"| {name} | {n / 1e6:.1f} M | {16 * n / MB:,.0f} | {kept / MB:,.0f} |"
            f" {2 * predicted / MB:,.0f} |"
        )


if __name__ == "__main__":
    main()
