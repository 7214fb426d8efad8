"""A network with parameters that are not its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

Place = tuple[str, nn.Parameter, dict[str, nn.Parameter | None], str]
"""A parameter's name, the parameter, and where it is held under which key."""


@contextmanager
def placed(network: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """The network has these parameters in place of its own.

    `torch.func.functional_call` does the same for one call in as much time as the forward pass of a
    small network takes: it looks for ties by listing all parameters and buffers twice, and finds
    each module anew for each tensor. Here the modules are walked through once.

    Args:
        network: has its own parameters again afterwards, also after an error.
        parameters: by their names in the network; one that is shared is replaced wherever it is.
            Names that the network has not are left aside.
    """
    places = list(_places(network, ""))
    given = {id(own): parameters[name] for name, own, _, _ in places if name in parameters}
    try:
        for _, own, store, key in places:
            if id(own) in given:
                store[key] = given[id(own)]  # type: ignore[assignment]
        yield
    finally:
        for _, own, store, key in places:
            store[key] = own


def _places(module: nn.Module, prefix: str) -> Iterator[Place]:
    store = module._parameters
    for key, own in store.items():
        if own is not None:
            yield prefix + key, own, store, key
    for name, child in module._modules.items():
        if child is not None:
            yield from _places(child, f"{prefix}{name}.")
