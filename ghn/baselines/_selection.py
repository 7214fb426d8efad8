"""Weight selection (Xu et al., "Initializing Models with Larger Ones", ICLR 2024): a small network
starts with a subset of the weights of a larger trained one of its family.

Layers correspond by name, so that of deeper stages the first are taken; of each dimension that is
larger there, evenly spaced places are taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError, DamagedFileError


@torch.no_grad()
def weight_selection(model: nn.Module, larger: Mapping[str, Tensor]) -> list[str]:
    """Copies into `model` the evenly spaced part of each tensor of `larger` of the same name.

    Running statistics of norms are tensors too. Layers with frozen parameters (`requires_grad` off)
    stay as they are. The classifier, the last weight of two or more dimensions, is selected from
    only if it has as many classes there: classes of another data set mean nothing here.

    Args:
        model: the smaller network, changed in place.
        larger: the state dict of the larger one.

    Returns:
        names of the model's tensors that stay as they are.

    Raises:
        ConfigError: no weight fits: the networks are of different families.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if tensor.dim()}
    matrices = [name for name, tensor in own.items() if tensor.dim() >= 2]
    left = []
    if matrices:
        head = matrices[-1]
        if head in larger and len(larger[head]) != len(own[head]):
            left = [name for name in own if name.rpartition(".")[0] == head.rpartition(".")[0]]
    left += [
        name for name, tensor in own.items() if name not in left and not _fits(tensor, larger, name)
    ]
    if not any(name in matrices and name not in left for name in own):
        raise ConfigError(
            f"no weight of the larger network fits {type(model).__name__}: weight selection needs"
            " a network of the same family with the same names of layers"
        )
    frozen = {
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    left += [name for name in own if name not in left and name.rpartition(".")[0] in frozen]
    for name, tensor in own.items():
        if name not in left:
            tensor.copy_(evenly_spaced(larger[name], tensor.shape))
    return left


def _fits(tensor: Tensor, larger: Mapping[str, Tensor], name: str) -> bool:
    found = larger.get(name)
    return (
        found is not None
        and found.dim() == tensor.dim()
        and all(n <= m for n, m in zip(tensor.shape, found.shape, strict=True))
    )


def evenly_spaced(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The part of `tensor` of this `shape` at evenly spaced places of each dimension, the first
    place among them.
    """
    for dimension, size in enumerate(shape):
        places = torch.arange(size) * tensor.shape[dimension] // max(size, 1)
        tensor = tensor.index_select(dimension, places.to(tensor.device))
    return tensor


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A state dict from a file of safetensors or of `torch.save`, which may have it under
    `state_dict` or `model`.

    Raises:
        ConfigError: there is no such file.
        DamagedFileError: it holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; weight selection needs a state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # safetensors' own derives from Exception alone
        raise DamagedFileError(f"{path} is no state dict that can be read: {error}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    found = {
        str(name): value
        for name, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(value, Tensor)
    }
    if not found:
        raise DamagedFileError(f"{path} has no tensors by name; give a state dict")
    return found
