"""Which kinds of networks a hypernetwork is known to help: accuracy of predicted parameters without
training, mean over networks of a kind, from which reports of predictions tell what is at chance.

    python benchmarks/kinds.py                          # of the package's hypernetwork
    python benchmarks/kinds.py models/ghn3 --write to.safetensors

The second form also writes the hypernetwork with the table in its metadata (`accuracy`). Images are
of the data set that it was trained on, at its size, in batches of 64 whose statistics batch norm
uses.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict

import torch

from datasets.images import load
from flows.networks.build import build_network
from flows.networks.score import score
from ghn import from_pretrained, save_checkpoint
from ghn.predict.fit import kind

NETWORKS = (
    "shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v3_small", "resnet18", "squeezenet1_1",
    "alexnet", "vgg11", "convnext_tiny", "vit_b_32", "swin_t",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="as ghn.from_pretrained takes it")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--write", help="a safetensors file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ghn = from_pretrained(asked.source)
    images = load(ghn.metadata["images"], split="test", image_size=ghn.image_size)
    batches = list(images.batches(64, 0, drop_last=True))[: asked.images // 64]
    found: dict[str, list[float]] = defaultdict(list)
    for name in NETWORKS:
        torch.manual_seed(0)  # of what is not predicted
        model, graph = build_network(name, ghn.num_classes, ghn.image_size)
        found[kind(graph)].append(score(ghn(model, graph), batches).accuracy)
        print(f"{name} ({kind(graph)}): {found[kind(graph)][-1]:.1%}", flush=True)
    table = {key: round(statistics.mean(values), 4) for key, values in found.items()}
    for key, value in table.items():
        print(f"{key}: {value:.1%}")
    if asked.write:
        del ghn.metadata["source"]
        save_checkpoint(ghn, asked.write, {**ghn.metadata, "accuracy": table})


if __name__ == "__main__":
    main()
