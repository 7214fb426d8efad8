"""Meta-batches of training architectures: graphs as padded tensors, networks on the meta device,
widths drawn.

A meta-batch is a function of (seed, step), so training resumes at any step, and ranks and loader
workers agree without talking. The train split is shuffled anew each epoch and cut into
meta-batches, of about one size on request (`MetaBatchConfig.window`); one whose graphs hold too
many nodes is left out, so that memory stays bounded (Knyazev et al., 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from datasets.deepnets.graphs.split import Split
from datasets.deepnets.networks.batch import Networks
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.cost import multiply_adds
from datasets.deepnets.space.scaling import Scaling
from datasets.deepnets.space.widths import MetaBatchConfig
from ghn.errors import ConfigError
from ghn.graph import Graph
from ghn.models.batch import GraphBatch

CHANNEL_STEP, FC_STEP = 16, 64


@dataclass(frozen=True)
class MetaBatch:
    """Architectures for one step.

    Attributes:
        graphs: their graphs, padded.
        networks: in the same order, networks without parameters of their own.
        index: their indices in the split.
    """

    graphs: GraphBatch
    networks: Sequence[nn.Module]
    index: tuple[int, ...]

    def pin_memory(self) -> MetaBatch:
        """The same with the graphs' tensors in page-locked memory (called by a `DataLoader`)."""
        return MetaBatch(self.graphs.pin_memory(), self.networks, self.index)


class MetaBatches(Dataset[MetaBatch]):
    """Meta-batch number `step` is `self[step]`, without end.

    Args:
        split: the architectures.
        size: architectures per meta-batch, over all ranks.
        num_classes: of the networks.
        image_size: in pixels.
        seed: of the pipeline.
        rank: this process among `world`; it gets size / world of each meta-batch.
        world: number of processes.
        config: how networks are sized.
        max_cost: most multiply-adds of a network, per image at its least width; costlier
            architectures are left out.
        norm: "always" leaves out networks without batch norms, "never" those with them.

    Raises:
        ConfigError: `size` is not a multiple of `world` or larger than what there is to choose
            from, or no meta-batch is small enough.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        num_classes: int = 10,
        image_size: int = 32,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        config: MetaBatchConfig | None = None,
        max_cost: float | None = None,
        norm: Literal["always", "never"] | None = None,
    ) -> None:
        self.split, self.size, self.seed, self.rank, self.world = split, size, seed, rank, world
        self.config = config or MetaBatchConfig()
        self.base = Scaling(num_classes=num_classes, image_size=image_size)
        self.n_nodes = split.n_nodes.astype(np.int64)
        left = np.ones(len(split), dtype=bool)
        if max_cost is not None or norm is not None:
            table = split.table()
            if max_cost is not None:
                least = replace(self.base, channels=self.config.channels[0])
                left &= multiply_adds(table, least) <= max_cost
            if norm is not None:
                left &= table.norm == (norm == "always")
        self._members = np.flatnonzero(left)
        if size % world or size > len(self._members):
            raise ConfigError(
                f"a meta-batch of {size} must divide among {world} processes and fit split"
                f" {split.name!r} of {len(self._members)} architectures"
                + ("" if max_cost is None else f" of at most {max_cost:g} multiply-adds")
                + ("" if norm is None else f", batch norms {norm}")
            )
        self._before = [0]  # number of meta-batches before each epoch, as far as known
        self._cut_epoch: tuple[int, NDArray[np.int64]] | None = None

    @property
    def members(self) -> NDArray[np.int64]:
        """The architectures of the split that take part."""
        return self._members

    @property
    def budget(self) -> int | None:
        """Most nodes in a meta-batch."""
        return self.config.max_nodes * max(8, self.size) // 8 if self.size > 1 else None

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """(B, size) the meta-batches of an epoch."""
        if self._cut_epoch is None or self._cut_epoch[0] != epoch:
            self._cut_epoch = epoch, self._cut(epoch)
        return self._cut_epoch[1]

    def _cut(self, epoch: int) -> NDArray[np.int64]:
        draw = np.random.default_rng([self.seed, 0, epoch])
        order = self._members[draw.permutation(len(self._members))]
        order = order[: len(order) // self.size * self.size]
        if self.config.window == 1:
            batches = order.reshape(-1, self.size)
        else:
            stretch = np.arange(len(order)) // (self.config.window * self.size)
            by_size = order[np.lexsort((self.n_nodes[order], stretch))]
            batches = draw.permutation(by_size.reshape(-1, self.size))
        if self.budget is not None:
            batches = batches[self.n_nodes[batches].sum(axis=1) <= self.budget]
        if not len(batches):
            raise ConfigError(
                f"no meta-batch of {self.size} from split {self.split.name!r} has at most"
                f" {self.budget} nodes; raise max_nodes or take fewer architectures"
            )
        return batches

    def indices(self, step: int) -> NDArray[np.int64]:
        """(size,) the architectures of all ranks at a step."""
        while self._before[-1] <= step:
            self._before.append(self._before[-1] + len(self._epoch(len(self._before) - 1)))
        epoch = int(np.searchsorted(self._before, step, side="right")) - 1
        indices: NDArray[np.int64] = self._epoch(epoch)[step - self._before[epoch]]
        return indices

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.intp]:
        """Positions of this rank's architectures: dealt out by size, back and forth, so that ranks
        work alike.
        """
        return deal(self.n_nodes[indices], self.rank, self.world)

    def __getitem__(self, step: int) -> MetaBatch:
        indices = self.indices(step)
        rng = np.random.default_rng([self.seed, 1, step])
        drawn = rng.random((self.size, 3))
        share = self.share(indices)
        graphs, networks = self.made(indices[share], drawn[share])
        batch = GraphBatch.from_graphs(graphs)
        for graph in graphs:
            # it is in the batch; sending it twice costs more than the rest
            graph.__dict__.pop("distance", None)
        return MetaBatch(batch, networks, tuple(indices[share].tolist()))

    def made(
        self, indices: NDArray[np.int64], drawn: NDArray[np.float64]
    ) -> tuple[list[Graph], Networks]:
        """Graphs and networks of architectures, at widths that follow from `drawn`; a loader's
        worker builds the networks, elsewhere whoever asks first.

        Args:
            indices: (n,) of the architectures.
            drawn: (n, 3) uniform in [0, 1).
        """
        chosen = indices.tolist()
        architectures = [self.split[index] for index in chosen]
        n_params = self.split.n_params[chosen, self._column].tolist()
        scalings = [
            self._scaling(architecture, n, *uniform)
            for architecture, n, uniform in zip(
                architectures, n_params, drawn.tolist(), strict=True
            )
        ]
        graphs = self.split.scaled_graphs(chosen, architectures, scalings)
        networks = Networks(architectures, scalings)
        if get_worker_info() is not None:
            networks.pack()
        return graphs, networks

    @property
    def _wider(self) -> bool:
        """Whether networks are sized by the wider rule, which GHN-3 has on large images only."""
        return self.config.wider_nets and self.base.large

    @property
    def _column(self) -> int:
        """Which parameter count the width rule looks at; the wider rule takes that at 32 pixels."""
        return int(self.base.large and not self._wider)

    def _scaling(
        self, architecture: Architecture, n_params: int, u: float, v: float, w: float
    ) -> Scaling:
        """Draws the width: large networks stay narrow.

        Args:
            architecture: the network.
            n_params: its parameters at C = 32 and 10 classes.
            u: uniform in [0, 1), for the width.
            v: the same, for the classifier's width.
            w: the same, for the stride of the stem.
        """
        config, wider, millions = self.config, self._wider, n_params / 1e6
        widths = range(config.channels[0], config.channels[1] + 1, CHANNEL_STEP)
        fc_dims = range(config.fc_dim[0], config.fc_dim[1] + 1, FC_STEP)
        n_cells = architecture.n_cells
        dense = not architecture.genotype.operations.isdisjoint(("conv_5x5", "conv_7x7"))
        small = not (millions > 0.2 or n_cells > 8 or dense) and architecture.glob_avg
        if (
            millions > (2.0 if wider else 0.8)
            or not architecture.glob_avg
            or dense
            or n_cells > (14 if wider else 12)
        ):
            n_widths = 1
        elif millions > 0.4 or n_cells > 10:
            n_widths = 4 if wider else 2
        elif not small:
            n_widths = 5 if wider else 3
        else:
            n_widths = len(widths)
        channels = widths[int(u * min(n_widths, len(widths)))]
        n_fc = len(fc_dims) if small and channels <= 64 else 4
        small_stride = wider and small and architecture.stem_type == 0 and architecture.stem_pool
        return Scaling(
            channels=channels,
            fc_dim=fc_dims[int(v * min(n_fc, len(fc_dims)))],
            num_classes=self.base.num_classes,
            image_size=self.base.image_size,
            imagenet_stride=2 if small_stride and w < 0.5 else 4,
        )


def deal(load: NDArray[Any], rank: int, world: int) -> NDArray[np.intp]:
    """Positions of the items of a rank, ascending: dealt out from the heaviest on, back and forth.

    Args:
        load: (n,) what each item weighs; n is a multiple of `world`.
        rank: the process among `world`.
        world: number of processes.
    """
    rounds = np.argsort(-load, kind="stable").reshape(-1, world)
    rounds[1::2] = rounds[1::2, ::-1]
    return np.sort(rounds[:, rank])


class _From:
    """Step numbers from a given one on."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def meta_batches(
    dataset: Dataset[MetaBatch], start: int = 0, workers: int = 0, pin_memory: bool = False
) -> Iterator[MetaBatch]:
    """Meta-batches from step `start` on, without end, in order.

    Args:
        dataset: where they come from.
        start: first step.
        workers: processes that prepare them ahead; 0 for this one.
        pin_memory: whether to copy them to page-locked memory.
    """
    loader: DataLoader[MetaBatch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=_From(start),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
    )
    yield from loader
