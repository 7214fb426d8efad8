"""What a client may ask for: a named architecture, or a network described as data.

A description is JSON and never code, so a request cannot run anything on the server:

    {"deepnets": {...}, "channels": 32}      an architecture of DeepNets-1M, in the published form
    of its meta data {"layers": [["Conv2d", 3, 16, 3], ["ReLU"], ["Flatten"], ["Linear", 256, 10]]}
                                             layers of torch.nn in a row; a list in place of a name
                                             is a row of its own, {"residual": [...]} adds its input
                                             to its output
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError, GHNError, UnknownArchitectureError
from ghn.tracing.inputs import default_inputs
from ghn.tracing.run import shape_propagation

MAX_LAYERS = 2000
MAX_DEPTH = 50

LAYERS = (
    *("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d", "Linear", "Embedding", "MultiheadAttention"),
    *(
        "BatchNorm1d",
        "BatchNorm2d",
        "LayerNorm",
        "GroupNorm",
        "InstanceNorm2d",
        "Flatten",
        "Unflatten",
        "Identity",
    ),
    *(
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "GELU",
        "SiLU",
        "Mish",
        "ELU",
        "Hardswish",
        "Hardsigmoid",
        "Sigmoid",
        "Tanh",
    ),
    *("Softmax", "Dropout", "Dropout2d", "ZeroPad2d", "Upsample", "PixelShuffle"),
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d"),
)
"""The layers of torch.nn that a description may name."""

_OF_THE_SERVER = {"device", "dtype"}
"""Arguments of layers that are not for a description: shapes are found out on the meta device."""


class Residual(nn.Sequential):
    """Layers in a row whose output is added to their input."""

    def forward(self, input: Tensor) -> Tensor:
        """`input` plus what the layers make of it, of the same shape."""
        output = input
        for layer in self:
            output = layer(output)
        return input + output


Builder = Callable[[str], nn.Module]
"""Makes the network on the device of that name; "meta" for shapes only."""


def is_description(architecture: str) -> bool:
    """Whether it is no name."""
    return architecture.lstrip().startswith("{")


def builder(architecture: str, num_classes: int, image_size: int) -> Builder:
    """How to make the network that `architecture` (a name, or a description in JSON) stands for.

    Raises:
        UnknownArchitectureError: no such name.
        ConfigError: the description is not valid; the message says where.
    """
    if not is_description(architecture):
        if ":" in architecture or ".." in architecture:
            raise UnknownArchitectureError(
                f"architecture {architecture!r}: only names that `ghn list` shows"
            )
        from ghn.architectures import build

        return lambda device: build(
            architecture, num_classes=num_classes, image_size=image_size, device=device
        )
    try:
        description = json.loads(architecture)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"architecture: not valid JSON: {error}") from None
    match description:
        case {"layers": list(rows), **rest} if not rest:
            count = _count(rows)
            if count > MAX_LAYERS:
                raise ConfigError(f"architecture.layers: {count} layers; at most {MAX_LAYERS}")
            return lambda device: _sequence(rows, device, "layers")
        case {"deepnets": dict(fields), **rest} if not rest.keys() - {"channels", "fc_dim"}:
            from datasets.deepnets import Architecture, Network

            parsed = Architecture.from_dict(fields)
            widths: dict[str, Any] = {str(key): value for key, value in rest.items()}
            return lambda device: Network(
                parsed,
                num_classes=num_classes,
                image_size=image_size,
                device=torch.device(device),
                **widths,
            )
    raise ConfigError(
        'architecture: a description is {"layers": [...]} or {"deepnets": {...}, "channels": ...}'
    )


def _count(rows: list[Any], depth: int = 0) -> int:
    if depth > MAX_DEPTH:
        raise ConfigError(f"architecture.layers: rows within rows, more than {MAX_DEPTH} deep")
    return sum(
        _count(row["residual"], depth + 1)
        if isinstance(row, dict) and isinstance(row.get("residual"), list)
        else _count(row, depth + 1)
        if isinstance(row, list) and row and not isinstance(row[0], str)
        else 1
        for row in rows
    )


def _sequence(rows: list[Any], device: str, where: str) -> nn.Sequential:
    return nn.Sequential(
        *(_layer(row, device, f"{where}[{index}]") for index, row in enumerate(rows))
    )


def _layer(row: Any, device: str, where: str) -> nn.Module:
    match row:
        case {"residual": list(rows)}:
            return Residual(*_sequence(rows, device, f"{where}.residual"))
        case [str(name), *arguments]:
            if name not in LAYERS:
                raise ConfigError(
                    f"architecture.{where}: no layer {name!r}; allowed: {', '.join(LAYERS)}"
                )
            keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            kind = getattr(nn, name)
            try:
                given = inspect.signature(kind).bind(*arguments, **keywords).arguments
                if chosen := _OF_THE_SERVER & given.keys():
                    raise ValueError(f"{' and '.join(sorted(chosen))} is the server's to choose")
                with torch.device(device):
                    layer: nn.Module = kind(*arguments, **keywords)
            except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                raise ConfigError(f"architecture.{where}: {name}: {error}") from None
            return layer
        case [*rows]:
            return _sequence(rows, device, where)
    raise ConfigError(
        f'architecture.{where}: a layer is ["Name", arguments...], not {json.dumps(row)[:80]}'
    )


def inputs_of(network: nn.Module, image_size: int) -> Tensor | None:
    """What layers in a row are traced on: images of `image_size`, or vectors or tokens where the
    first layer takes those. None of other networks, which know their size.
    """
    if type(network) is not nn.Sequential:
        return None
    return default_inputs(network, image_size)[0]


def check_logits(network: nn.Module, inputs: Tensor, classes: int) -> None:
    """Refuses a network, one that takes `inputs`, whose outputs are not logits of `classes`.

    Raises:
        ConfigError: they have another shape.
    """
    outputs = shape_propagation(network, inputs)
    if tuple(outputs.shape) != (len(inputs), classes):
        raise ConfigError(
            f"architecture.layers: outputs of shape {tuple(outputs.shape)} for {len(inputs)} inputs"
            f" of shape {tuple(inputs.shape[1:])} are no logits of classes={classes}: change the"
            " last layers, or `classes`"
        )


def outline(build: Builder) -> nn.Module:
    """The network on the meta device: what it is like, found out without making a number.

    Raises:
        GHNError: the network cannot be built.
    """
    try:
        return build("meta")
    except GHNError:
        raise
    except Exception as error:  # a constructor's own complaint about sizes that do not fit
        raise ConfigError(f"architecture: cannot be built: {error}") from error
