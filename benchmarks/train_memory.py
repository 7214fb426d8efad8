"""What a training step needs of a card's memory, and whether parameters must be sharded.

    python benchmarks/train_memory.py --variants ghn3-t ghn3-xl --ranks 4 --batches 2

The step runs forward on a card that is not there (`tests/gpu/pretended.py`): tensors without values
on "cuda", of which those that are alive are counted. No GPU is needed.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datasets.deepnets import GenerateConfig, MetaBatches, generate_split
from ghn.models import GHN, GHNConfig
from ghn.train import TrainConfig
from ghn.train.functional import placed
from ghn.train.leaves import Leaves
from ghn.train.recompute import blocks, recomputed
from ghn.train.step import MetaBatch, autocast

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "gpu"))
from pretended import CUDA, card

GB = 10**9


@dataclass(frozen=True)
class Plan:
    """Bytes that a rank's card holds.

    Attributes:
        weights: of the hypernetwork.
        moments: of AdamW, or this rank's share of them.
        gradients: of the hypernetwork, with what they are averaged in.
        kept: by the hypernetwork's forward pass for its backward pass.
        predicted: parameters as networks use them, and room for their gradients.
        network: of the network that needs most: what its forward pass keeps, the gradients of its
            parameters, and two tensors as large as the largest of its activations, which its
            backward pass holds at a time; with `recompute` also what is computed again at a time.
        images: of a step.
    """

    weights: int
    moments: int
    gradients: int
    kept: int
    predicted: int
    network: int
    images: int

    @property
    def peak(self) -> int:
        """While networks run the hypernetwork has no gradients yet; while it gets them no network
        runs.
        """
        always = self.weights + self.moments + self.kept + self.predicted + self.images
        return always + max(self.network, self.gradients)


class Alive(TorchDispatchMode):
    """Counts the bytes of the card's tensors.

    Attributes:
        bytes: of those that exist.
        largest: of one storage, since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.largest = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == "cuda":
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        known = self._storages.get(storage._cdata)
        if known is not None and known() is not None:
            return
        size = storage.nbytes()
        self.bytes += size
        self.largest = max(self.largest, size)

        def gone(_: object) -> None:
            self.bytes -= size

        self._storages[storage._cdata] = weakref.ref(storage, gone)


def planned(
    hypernetwork: GHNConfig, batch: MetaBatch, pixels: int, config: TrainConfig, world: int = 1
) -> Plan:
    """The plan of a step on one of `world` cards, whose share of the meta-batch is `batch`."""
    ghn = GHN.empty(hypernetwork)
    with card() as move, Alive() as alive:
        move(ghn)
        weights = sum(parameter.nbytes for parameter in ghn.parameters())
        before = alive.bytes
        ghn.autocast_decoders = config.amp_decoders
        with autocast(config, CUDA):
            prediction = ghn(batch.graphs.to(CUDA))
            penalty = prediction.penalty(config.penalty)
        kept = alive.bytes - before
        leaves = Leaves(prediction)
        predicted = alive.bytes - before - kept
        x_BCHW = torch.empty(config.batch_size, 3, pixels, pixels, device=CUDA)
        x_BCHW = x_BCHW.to(memory_format=torch.channels_last)
        most = 0
        for network, parameters in zip(batch.networks, leaves.of_network, strict=True):
            needs = _of_network(network, parameters, x_BCHW, config, alive)
            most = max(most, needs + sum(tensor.nbytes for tensor in parameters.values()))
        del penalty
    moments = 2 * weights
    shared = 64 * 2**20 if world > 1 else 0
    return Plan(
        weights,
        -(-moments // world) if config.shard_optimizer else moments,
        weights + shared,
        kept,
        predicted,
        most,
        x_BCHW.nbytes,
    )


def _of_network(
    network: nn.Module,
    parameters: dict[str, Tensor],
    x_BCHW: Tensor,
    config: TrainConfig,
    alive: Alive,
) -> int:
    """Bytes of a network's forward and backward pass, without its parameters' gradients."""
    y_B = torch.empty(len(x_BCHW), dtype=torch.int64, device=CUDA)
    alive.largest = 0

    def forward(recompute: bool) -> int:
        before = alive.bytes
        with placed(network, parameters), recomputed(network, recompute), autocast(config, CUDA):
            loss = cross_entropy(network(x_BCHW).float(), y_B)
        found = alive.bytes - before
        del loss
        return found

    if not config.recompute:
        return forward(False) + 2 * alive.largest
    with _grown(blocks(network), alive) as of_blocks:
        forward(False)
    return forward(True) + max(of_blocks, default=0) + 2 * alive.largest


@contextmanager
def _grown(modules: Iterable[nn.Module], alive: Alive) -> Iterator[list[int]]:
    """By how many bytes each call of one of the modules lets the card's tensors grow."""
    grown: list[int] = []
    before: list[int] = []
    hooks = []
    for module in modules:
        begin: Callable[..., None] = lambda *_: before.append(alive.bytes)  # noqa: E731
        end: Callable[..., None] = lambda *_: grown.append(alive.bytes - before.pop())  # noqa: E731
        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield grown
    finally:
        for hook in hooks:
            hook.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["ghn3-t", "ghn3-xl"])
    parser.add_argument("--m", type=int, default=8, help="architectures per step, over all ranks")
    parser.add_argument("--ranks", type=int, default=4, help="a card each")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--amp", default="fp16", choices=("off", "fp16", "bf16"))
    parser.add_argument("--batches", type=int, default=2, help="the largest of so many is taken")
    options = parser.parse_args()
    directory = TemporaryDirectory()
    rules = GenerateConfig(shard_size=100, splits={"train": {"size": 100}})
    split = generate_split(directory.name, "train", rules, 1).split
    batches = [
        MetaBatches(split, options.m, 1000, options.pixels, 1, rank, options.ranks)[step]
        for step in range(options.batches)
        for rank in range(options.ranks)
    ]
    print("| GB | weights | moments | gradients | kept | predicted | network | peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.variants:
        for changes in (
            {},
            {"recompute": True},
            {"shard_optimizer": True},
            {"recompute": True, "shard_optimizer": True},
        ):
            config = TrainConfig(
                meta_batch_size=options.m, batch_size=options.images, amp=options.amp, **changes
            )
            plans = [
                planned(GHNConfig.variant(name), batch, options.pixels, config, options.ranks)
                for batch in batches
            ]
            most = max(plans, key=lambda plan: plan.peak)
            numbers = (most.weights, most.moments, most.gradients, most.kept, most.predicted,
                       most.network, most.peak)  # fmt: skip
            label = ", ".join((name, *(key.replace("_", " ") for key in changes)))
            print(f"| {label} | {' | '.join(f'{number / GB:.1f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
