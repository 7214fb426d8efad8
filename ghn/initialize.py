"""From names to files and back: a named architecture with predicted parameters, and a description
of its graph.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ghn.errors import ConfigError, DamagedFileError, TraceError, UnsupportedFormatError
from ghn.files import atomic_path, content_digest, read_safetensors, sort_metadata
from ghn.randomness import seeded

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ghn.graph import Graph
    from ghn.images import Images

_DIGEST = "digest"
_MISFITS = {
    "missing": r"Missing key\(s\) in state_dict: (.*)\. ",
    "not the network's": r"Unexpected key\(s\) in state_dict: (.*)\. ",
    "of another size": r"size mismatch for (\S+):",
}
"""What PyTorch says of each kind."""
_MADE = {"architecture", "num_classes", "image_size", "ghn"}
"""What the metadata of a file says about the network in it."""

_STATISTICS = "statistics"
"""Entry of the metadata of a file whose running statistics were estimated: from how many images."""


def save_initialized(
    name: str,
    source: str | None,
    out: str | Path,
    num_classes: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    images: Images | None = None,
) -> str:
    """Writes the state dict of network `name`, its parameters predicted, as safetensors.

    Equal arguments give equal bytes, and the random state stays as it is.

    Args:
        name: of the network, as `ghn.architectures.own.network` takes it.
        source: of the hypernetwork, as `ghn.from_pretrained` takes it; None for the one in the
            package.
        out: the file, whose name ends in .safetensors.
        num_classes: by default those that the hypernetwork was trained on.
        image_size: side in pixels; by default what the hypernetwork was trained on.
        seed: of the values of parameters that are not predicted, and of what the network draws
            while statistics are estimated.
        device: where to predict.
        dtype: of floating point tensors in the file; by default they stay as they are.
        images: for the running statistics of batch norms, which are not predicted.

    Returns:
        what was done, for the user.

    Raises:
        UnknownArchitectureError: no such architecture.
        ConfigError: `out` is no name for such a file, the network cannot be told `num_classes`, or
            its state has something other than tensors.
        GHNError: the hypernetwork cannot be found or read.
    """
    import torch

    from ghn.architectures.own import is_own, network, takes_classes
    from ghn.checkpoint import from_pretrained
    from ghn.tracing.inputs import image_channels

    _check_name(Path(out))
    told = takes_classes(name)
    if num_classes and not told:
        raise ConfigError(
            f"{name} has no argument num_classes, so that it cannot be told to have"
            f" {num_classes} classes; give it one, or leave the classes out"
        )
    hypernetwork = from_pretrained(source, device=device)
    classes = num_classes or hypernetwork.num_classes
    size = image_size or hypernetwork.image_size
    with seeded(seed):
        model = network(name, classes, size).to(device)
    example = None
    if is_own(name) and image_size:
        example = torch.empty(2, image_channels(model), size, size, device="meta")
    started = time.perf_counter()
    hypernetwork(model, example_inputs=example)
    seconds = time.perf_counter() - started
    metadata = {
        "architecture": name,
        "num_classes": str(classes),
        "image_size": str(size),
        "ghn": source or "default",
    }
    report = str(hypernetwork.reports[0])
    if images is not None:
        report = str(hypernetwork.reports[0].with_statistics())
        n = _estimate_statistics(model, images, seed)
        if n:
            metadata[_STATISTICS] = str(n)
            report += f"\n  running statistics are those of {n} images"
    _write(out, model, metadata, dtype)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    done = (
        f"{out}: {name}, {parameters:,} parameters,{f' {classes} classes,' if told else ''} {size}"
        f" pixels, predicted in {seconds:.2f} s"
    )
    load = f"ghn.load_initialized({str(out)!r}{', YOUR_NETWORK' if is_own(name) else ''})"
    return f"{done}\n{report}\nIn Python: model = {load}"


def _estimate_statistics(model: nn.Module, images: Images, seed: int) -> int:
    """Sets the running statistics of batch norms; returns from how many images."""
    from ghn.finetune import FinetuneConfig, estimate_statistics

    config = FinetuneConfig()
    return estimate_statistics(model, images, config.statistics_images, config.batch_size, seed)


def _write(
    out: str | Path, model: nn.Module, metadata: dict[str, str], dtype: torch.dtype | None
) -> None:
    import torch
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {}
    storages = set()
    for key, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(
                f"the state of this {type(model).__name__} has a {type(tensor).__name__} as"
                f" {key!r}, which safetensors files cannot hold; predict it in Python"
            )
        kept = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        kept = kept.detach().cpu().contiguous()
        if kept.untyped_storage().data_ptr() in storages:
            kept = kept.clone()  # safetensors refuses tied parameters
        storages.add(kept.untyped_storage().data_ptr())
        state[key] = kept
    metadata[_DIGEST] = content_digest(state, json.dumps(metadata, sort_keys=True))
    with atomic_path(out) as temporary:
        save_file(state, temporary, metadata=metadata)
        sort_metadata(temporary)


def _check_name(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError(
            f"{out}: `ghn init` writes safetensors; call the file {out.with_suffix('.safetensors')}"
        )


def load_initialized(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The network that `save_initialized` (`ghn init`) has written, built and with its parameters.

    Its stem and head are those of the image size and the classes that it was made for, which the
    constructors of torchvision do not know; and MNASNet asks for module versions, which a
    safetensors file cannot carry.

    Args:
        path: the file.
        model: what to load into, in place. A network of your own is needed here: a file is not
            trusted with the name of code to run.

    Raises:
        DamagedFileError: the file is cut, no safetensors file, or not what was written.
        UnsupportedFormatError: it is one, but not from `save_initialized`.
        ConfigError: the network in it is not one by name and `model` is missing, or does not fit.
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
    unknown = made.keys() - _MADE - {_STATISTICS}
    if unknown or (digest and content_digest(tensors, said) != digest):
        raise DamagedFileError(f"{path} is damaged: its content is not what `ghn init` wrote")
    name = made["architecture"]
    if model is None and ":" in name:
        raise ConfigError(
            f"{path} has the parameters of {name}: pass that network, load_initialized(path, model)"
        )
    if model is None:
        model = build(name, int(made["num_classes"]), int(made["image_size"]))
    state = OrderedDict(tensors)
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"{path} has the parameters of {name}, not of this network: {misfit(error)}"
        ) from error
    return model


def misfit(error: Exception) -> str:
    """What `load_state_dict` has against a state, in a line: how many names are missing, unexpected
    or of another size, and the first of each.
    """
    said = str(error)
    parts = []
    for kind, pattern in _MISFITS.items():
        if lists := re.findall(pattern, said):
            names = [name for found in lists for name in re.findall(r"[^\s\",]+", found)]
            parts.append(f"{len(names)} {kind} (first {names[0]})")
    return ", ".join(parts) or " ".join(said.split())


def made_of(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `ghn init` noted in a file about the network in it; empty for a file of another origin.

    Raises:
        DamagedFileError: a safetensors file that cannot be read.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if Path(path).suffix != ".safetensors":
        return {}
    made = read_safetensors(path)[1]
    return {key: made[key] for key in _MADE} if made.keys() >= _MADE else {}


def trace_architecture(name: str, num_classes: int, image_size: int) -> Graph:
    """The graph of a network by name, traced from its shapes."""
    from ghn.architectures.own import is_own, network
    from ghn.tracing import trace

    try:
        graph = trace(network(name, num_classes, image_size, device="meta"), image_size=image_size)
    except TraceError:
        if not is_own(name):
            raise
        # its control flow may need values
        graph = trace(network(name, num_classes, image_size), image_size=image_size)
    return replace(graph, name=name)
