"""From names to files and back: a named architecture with predicted parameters, and a description
of its graph.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ghn.errors import ConfigError, DamagedFileError, UnsupportedFormatError
from ghn.files import atomic_path, content_digest, read_safetensors, sort_metadata

if TYPE_CHECKING:
    from torch import nn

    from ghn.graph import Graph

_DIGEST = "digest"
_MADE = {"architecture", "num_classes", "image_size", "ghn"}
"""What the metadata of a file says about the network in it."""


def save_initialized(
    name: str,
    source: str | None,
    out: str | Path,
    num_classes: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> str:
    """Writes the state dict of architecture `name`, its parameters predicted, as safetensors.

    Equal arguments give equal bytes, and the random state stays as it is.

    Args:
        name: of the architecture (`ghn.architectures.available`).
        source: of the hypernetwork, as `ghn.from_pretrained` takes it; None for the one in the
            package.
        out: the file, whose name ends in .safetensors.
        num_classes: by default those that the hypernetwork was trained on.
        image_size: side in pixels; by default what the hypernetwork was trained on.
        seed: of the values of parameters that are not predicted.

    Returns:
        what was done, for the user.

    Raises:
        UnknownArchitectureError: no such architecture.
        ConfigError: `out` is no name for such a file.
        GHNError: the hypernetwork cannot be found or read.
    """
    import torch
    from safetensors.torch import save_file

    from ghn.architectures import build
    from ghn.checkpoint import from_pretrained

    _check_name(Path(out))
    hypernetwork = from_pretrained(source)
    config = hypernetwork.config
    classes = num_classes or config.num_classes
    size = image_size or hypernetwork.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, num_classes=classes, image_size=size)
    started = time.perf_counter()
    hypernetwork(model)
    seconds = time.perf_counter() - started
    state = {key: tensor.detach().contiguous() for key, tensor in model.state_dict().items()}
    metadata = {
        "architecture": name,
        "num_classes": str(classes),
        "image_size": str(size),
        "ghn": source or "default",
    }
    metadata[_DIGEST] = content_digest(state, json.dumps(metadata, sort_keys=True))
    with atomic_path(out) as temporary:
        save_file(state, temporary, metadata=metadata)
        sort_metadata(temporary)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    done = (
        f"{out}: {name}, {parameters:,} parameters, {classes} classes, {size} pixels, predicted in"
        f" {seconds:.2f} s"
    )
    return (
        f"{done}\n{hypernetwork.reports[0]}\nIn Python: model = ghn.load_initialized({str(out)!r})"
    )


def _check_name(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError(
            f"{out}: `ghn init` writes safetensors; call the file {out.with_suffix('.safetensors')}"
        )


def load_initialized(path: str | os.PathLike[str]) -> nn.Module:
    """The network that `save_initialized` (`ghn init`) has written, built and with its parameters.

    Its stem and head are those of the image size and the classes that it was made for, which the
    constructors of torchvision do not know; and MNASNet asks for module versions, which a
    safetensors file cannot carry.

    Raises:
        DamagedFileError: the file is cut, no safetensors file, or not what was written.
        UnsupportedFormatError: it is one, but not from `save_initialized`.
        FileNotFoundError: there is no such file.
    """
    from ghn.architectures import build

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; `ghn init NAME --out {path}` writes it")
    tensors, made = read_safetensors(path)
    if missing := _MADE - {"ghn"} - made.keys():
        raise UnsupportedFormatError(
            f"{path} was not written by `ghn init`: it does not name its {sorted(missing)}"
        )
    digest = made.pop(_DIGEST, None)  # older files have none
    said = json.dumps(made, sort_keys=True)
    if made.keys() > _MADE or (digest and content_digest(tensors, said) != digest):
        raise DamagedFileError(f"{path} is damaged: its content is not what `ghn init` wrote")
    model = build(made["architecture"], int(made["num_classes"]), int(made["image_size"]))
    state = OrderedDict(tensors)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state)
    return model


def trace_architecture(name: str, num_classes: int, image_size: int) -> Graph:
    """The graph of a named architecture, traced from its shapes."""
    from ghn.architectures import build
    from ghn.tracing import trace

    network = build(name, num_classes=num_classes, image_size=image_size, device="meta")
    return replace(trace(network), name=name)
