"""Meta-batches from a list of networks: those of libraries by name, your own, and DeepNets-1M,
mixed by weights.

A meta-batch is a function of (seed, step), whatever the number of ranks, so a training resumes at
any step. Its networks are dealt out to ranks by cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from datasets.deepnets.loader import MetaBatch, MetaBatches, deal
from datasets.deepnets.space.cost import multiply_adds
from flows.rows.digest import digest
from flows.settings.population import DEEPNETS, PopulationEntry
from flows.training.members import Member, member, member_content, on_device
from ghn import names
from ghn.architectures.own import is_own
from ghn.errors import ConfigError, GHNError
from ghn.graph import Graph
from ghn.models.batch import GraphBatch

if TYPE_CHECKING:
    from datasets.deepnets.space.widths import MetaBatchConfig

ATTEMPTS = 1000
"""How often a meta-batch is drawn anew because its graphs have too many nodes together."""


class Population:
    """The entries of `train.population`, their names found; networks are built for a size.

    Attributes:
        entries: as they were given.
        names: of the networks of each; of DeepNets-1M none.
        content: digest of all that decides which networks are drawn, and what they are.

    Raises:
        GHNError: an entry names nothing, or what it names cannot be found; says which.
    """

    def __init__(self, entries: Sequence[PopulationEntry]) -> None:
        if not entries:
            raise ConfigError("train.population is empty; null trains on train.split")
        self.entries = tuple(entries)
        self.names: list[list[str]] = []
        contents = []
        for number, entry in enumerate(entries):
            with _naming(number, entry):
                self.names.append(_names(entry))
                contents.append([member_content(name) for name in self.names[-1]])
        said = [entry.model_dump(mode="json") for entry in entries]
        self.content = digest(said, self.names, contents)
        self._members: dict[tuple[str, int, int, int], Member] = {}

    @property
    def has_deepnets(self) -> bool:
        """Whether DeepNets-1M is among the entries."""
        return any(entry.networks == DEEPNETS for entry in self.entries)

    def members(
        self, num_classes: int, image_size: int, seed: int, max_cost: float | None = None
    ) -> list[list[Member]]:
        """The networks of each entry, without those that cost too much.

        Args:
            num_classes: of the training images.
            image_size: their side in pixels.
            seed: of parameters that are not predicted.
            max_cost: most multiply-accumulates of a network per image; None: as the entries say.

        Raises:
            GHNError: a network cannot be built or traced, or an entry has none left; says which.
        """

        found = []
        for number, (entry, listed) in enumerate(zip(self.entries, self.names, strict=True)):
            bounds = [b for b in (max_cost, entry.max_gmacs and 1e9 * entry.max_gmacs) if b]
            with _naming(number, entry):
                made = [self._member(name, num_classes, image_size, seed) for name in listed]
                kept = [one for one in made if one.cost <= min(bounds, default=np.inf)]
                if made and not kept:
                    least = min(made, key=lambda one: one.cost)
                    raise ConfigError(
                        f"no network is cheap enough; {least.name} takes {least.cost / 1e9:.3g}"
                        " GMACs"
                    )
                found.append(kept)
        return found

    def _member(self, name: str, num_classes: int, image_size: int, seed: int) -> Member:
        key = (name, num_classes, image_size, seed)
        if key not in self._members:
            try:
                self._members[key] = member(*key)
            except GHNError as error:
                raise type(error)(f"{name}: {error}") from error
        return self._members[key]


@contextmanager
def _naming(number: int, entry: PopulationEntry) -> Iterator[None]:
    """Errors within it name the entry and are one line."""
    try:
        yield
    except GHNError as error:
        said = " ".join(str(error).split())
        raise type(error)(f"train.population[{number}] ({entry.networks}): {said}") from error


def _names(entry: PopulationEntry) -> list[str]:
    """The networks that an entry means."""
    if entry.networks == DEEPNETS:
        return []
    timm = entry.networks.startswith(names.TIMM_PREFIX)
    found = [entry.networks] if is_own(entry.networks) else names.find(entry.networks, timm=timm)
    for one in entry.exclude:
        if not (set("*?[") & set(one) or one in found):
            raise ConfigError(f"exclude: {one!r} is none of its networks")
    left = [name for name in found if not any(fnmatchcase(name, one) for one in entry.exclude)]
    if not left:
        raise ConfigError("exclude leaves none of its networks")
    return left


class MixedNetworks(Sequence[nn.Module]):
    """Networks of a meta-batch. Those of a population are not sent between processes but found
    again by their names, those of DeepNets-1M built when they are first asked for.
    """

    def __init__(
        self, chosen: Sequence[str | int], networks: Sequence[nn.Module], key: str
    ) -> None:
        self.chosen, self.networks, self.key = tuple(chosen), networks, key

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[nn.Module]: ...

    def __getitem__(self, index: int | slice) -> nn.Module | Sequence[nn.Module]:
        if isinstance(index, slice):
            return MixedNetworks(self.chosen[index], self.networks, self.key)
        one = self.chosen[index]
        return self.networks[one] if isinstance(one, int) else _BUILT[self.key][one]


_BUILT: dict[str, dict[str, nn.Module]] = {}
"""The networks of the populations of this process, by the key of their meta-batches."""


@dataclass(frozen=True)
class Slot:
    """A place in a meta-batch: a network of the population, or number `index` of the split."""

    member: Member | None
    index: int
    n_nodes: int
    cost: float


class PopulationBatches(Dataset[MetaBatch]):
    """Meta-batch number `step` is `self[step]`, without end.

    Each network is drawn by itself: an entry by the weights, then one of its networks. A meta-batch
    whose graphs have more nodes than `budget` is drawn again.

    Args:
        population: the entries.
        members: their networks, as `Population.members` gives them.
        size: networks per meta-batch, over all ranks.
        config: `max_nodes`.
        seed: of the draws.
        rank: this process among `world`; it gets size / world of each meta-batch.
        world: number of processes.
        deepnets: gives the networks of the entry deepnets1m.
        device: where networks are run.

    Raises:
        ConfigError: `size` is not a multiple of `world`.
    """

    def __init__(
        self,
        population: Population,
        members: Sequence[Sequence[Member]],
        size: int,
        config: MetaBatchConfig,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        deepnets: MetaBatches | None = None,
        device: torch.device | None = None,
    ) -> None:
        if size % world:
            raise ConfigError(f"a meta-batch of {size} must divide among {world} processes")
        self.size, self.seed, self.rank, self.world = size, seed, rank, world
        self.budget = config.max_nodes * max(8, size) // 8 if size > 1 else None
        self.members, self.deepnets = members, deepnets
        weights = np.array([entry.weight for entry in population.entries])
        self._weights = weights / weights.sum()
        if deepnets is not None:
            least = replace(deepnets.base, channels=deepnets.config.channels[0])
            self._costs = multiply_adds(deepnets.split.table(), least)
        self._key = f"{population.content}/{id(self)}"
        place = device or torch.device("cpu")
        built = {one.name: on_device(one.network, place) for group in members for one in group}
        _BUILT[self._key] = built

    def slots(self, step: int) -> list[Slot]:
        """The networks of all ranks at a step.

        Raises:
            ConfigError: no draw has few enough nodes.
        """
        for attempt in range(ATTEMPTS):
            draw = np.random.default_rng([self.seed, 2, step, attempt])
            entries = draw.choice(len(self._weights), self.size, p=self._weights)
            places = draw.random(self.size)
            slots = [
                self._slot(*pair) for pair in zip(entries.tolist(), places.tolist(), strict=True)
            ]
            if self.budget is None or sum(slot.n_nodes for slot in slots) <= self.budget:
                return slots
        raise ConfigError(
            f"train.population: no meta-batch of {self.size} has at most {self.budget} nodes; raise"
            " train.networks.max_nodes, or leave out the largest networks (max_gmacs, exclude)"
        )

    def _slot(self, entry: int, place: float) -> Slot:
        members = self.members[entry]
        if members:
            one = members[int(place * len(members))]
            return Slot(one, -1, one.graph.n_nodes, one.cost)
        assert self.deepnets is not None
        choice = self.deepnets.members
        index = int(choice[int(place * len(choice))])
        return Slot(None, index, int(self.deepnets.n_nodes[index]), float(self._costs[index]))

    def __getitem__(self, step: int) -> MetaBatch:
        slots = self.slots(step)
        share = deal(np.array([slot.cost for slot in slots]), self.rank, self.world)
        drawn = np.random.default_rng([self.seed, 1, step]).random((self.size, 3))[share]
        mine = [slots[place] for place in share]
        ours = [k for k, slot in enumerate(mine) if slot.member is None]
        graphs: list[Graph] = []
        networks: Sequence[nn.Module] = ()
        if ours and self.deepnets is not None:
            indices: NDArray[np.int64] = np.array([mine[k].index for k in ours])
            graphs, networks = self.deepnets.made(indices, drawn[ours])
        made = dict(zip(ours, graphs, strict=True))
        batch = GraphBatch.from_graphs(
            [slot.member.graph if slot.member else made[k] for k, slot in enumerate(mine)]
        )
        for graph in graphs:
            graph.__dict__.pop("distance", None)  # as in MetaBatches
        chosen = [slot.member.name if slot.member else ours.index(k) for k, slot in enumerate(mine)]
        return MetaBatch(batch, MixedNetworks(chosen, networks, self._key), tuple(share.tolist()))
