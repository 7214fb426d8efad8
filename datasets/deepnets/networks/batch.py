"""The networks of a meta-batch, made where there is time for it: by a loader's worker, which sends
them, or when they are first asked for.

A module of PyTorch is some fifteen dictionaries, most of them empty. Pickled as they are, networks
are read about as fast as they are built; what is sent is what tells their modules from new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from datasets.deepnets.networks.network import Network
from datasets.deepnets.space.architecture import Architecture
from datasets.deepnets.space.scaling import Scaling


class Packed(NamedTuple):
    """A module on the meta device.

    Attributes:
        kind: its class.
        attributes: what it has beside the dictionaries of every module.
        shapes: of its own parameters by name; None for one that is absent.
        buffers: names of absent buffers.
        children: modules in it by name.
    """

    kind: type[nn.Module]
    attributes: dict[str, Any]
    shapes: dict[str, tuple[int, ...] | None]
    buffers: tuple[str, ...]
    children: dict[str, Packed]


_EVERY_MODULE = frozenset(nn.Module().__dict__) - {"training"}


def pack(module: nn.Module) -> Packed:
    """What `unpack` makes an equal module of. Hooks are not among it.

    Args:
        module: its parameters are on the meta device, its buffers None.
    """
    return Packed(
        type(module),
        {key: value for key, value in vars(module).items() if key not in _EVERY_MODULE},
        {key: None if p is None else tuple(p.shape) for key, p in module._parameters.items()},
        tuple(module._buffers),
        {key: pack(child) for key, child in module._modules.items() if child is not None},
    )


def unpack(packed: Packed) -> nn.Module:
    """The module that was packed."""
    module = packed.kind.__new__(packed.kind)
    nn.Module.__init__(module)
    vars(module).update(packed.attributes)
    for key, shape in packed.shapes.items():
        module._parameters[key] = None if shape is None else nn.Parameter(_without_values(shape))
    module._buffers.update(dict.fromkeys(packed.buffers))
    for key, child in packed.children.items():
        module._modules[key] = unpack(child)
    return module


@lru_cache(maxsize=4096)
def _without_values(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, device="meta")


class Networks(Sequence[nn.Module]):
    """Networks of architectures on the meta device, each made when it is first asked for: built, or
    unpacked if `pack` was called before they were sent.
    """

    def __init__(self, architectures: Sequence[Architecture], scalings: Sequence[Scaling]) -> None:
        self.architectures, self.scalings = tuple(architectures), tuple(scalings)
        self._made: dict[int, nn.Module] = {}
        self._packed: list[Packed] = []

    def pack(self) -> None:
        """Builds all of them, to be sent to another process."""
        self._packed = [pack(network) for network in self]

    def __len__(self) -> int:
        return len(self.architectures)

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[nn.Module]: ...

    def __getitem__(self, index: int | slice) -> nn.Module | Sequence[nn.Module]:
        if isinstance(index, slice):
            return Networks(self.architectures[index], self.scalings[index])
        index = range(len(self))[index]
        if index not in self._made:
            self._made[index] = unpack(self._packed[index]) if self._packed else self._build(index)
        return self._made[index]

    def _build(self, index: int) -> nn.Module:
        scaling = self.scalings[index]
        return Network(
            self.architectures[index], scaling.channels, scaling.fc_dim, scaling.num_classes,
            scaling.image_size,
            scaling.imagenet_stride, device="meta",
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}
