"""What is wrong with networks, which are not ours, in words."""

from __future__ import annotations

import itertools
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghn.errors import ConfigError

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
"""Where code is that is not the network's."""


def reason(error: Exception, *, with_type: bool = False) -> str:
    """What went wrong and in which line of a network, in one line.

    Args:
        error: what the network raised.
        with_type: begin with the type of the error, which stands alone where it says nothing.
    """
    kind, said = type(error).__name__, " ".join(str(error).split())
    said = f"{kind}: {said}" if with_type and said else said or kind
    said = said if len(said) <= 300 else f"{said[:297]}..."
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return f"{said} ({own[-1].filename}:{own[-1].lineno})" if own else said


def require_shapes(model: nn.Module) -> None:
    """Raises ConfigError if a parameter or buffer of a lazy module has no shape yet."""
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(value):
            raise ConfigError(
                f"{type(model).__name__}.{name} has no shape yet; run the network once first"
            )


def require_trainable(model: nn.Module) -> None:
    """Raises ConfigError if a parameter of a network has no shape or no values, or all are
    frozen.
    """
    require_shapes(model)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ConfigError(
                f"{type(model).__name__}.{name} is on the meta device, without values; use"
                " model.to_empty(device='cpu') and initialise the network first"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"{type(model).__name__} has no parameter to train: requires_grad is off everywhere;"
            " switch it on for some"
        )


def require_logits(outputs: Tensor) -> None:
    """Raises ConfigError if a network's outputs for a batch of images are no logits, one vector per
    image (those of a segmentation network are maps).
    """
    if outputs.dim() != 2:
        raise ConfigError(
            f"the network returns outputs of shape {tuple(outputs.shape)}, not logits of shape"
            " (images, classes); give it a head that classifies whole images"
        )


def other_classes(classes: int) -> ConfigError:
    """The error of a network of so many classes that is given images of others."""
    return ConfigError(
        f"the network has {classes} classes, and there are images of others; give it a head with"
        " as many outputs as the images have classes"
    )
