"""A hypernetwork's file described, and written in another format or precision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ghn.checkpoint.files import file_of, load_checkpoint, save_checkpoint, save_released
from ghn.checkpoint.names import config_from_released, infer_config, to_released
from ghn.checkpoint.sources import from_pretrained, located
from ghn.errors import ConfigError, UnsupportedFormatError
from ghn.files import atomic_path, check_directory
from ghn.models.config import GHNConfig
from ghn.models.hypernetwork import GHN

PICKLE = (".pt", ".pth")

_UNUSED: dict[str, set[str]] = {
    "transformer": {"virtual_edges"},
    "gated": {"heads", "edge_embedding"},
    "mlp": {"heads", "edge_embedding", "layers", "virtual_edges"},
}
"""Fields that decide nothing, by how nodes exchange information."""


def describe(source: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What a hypernetwork is and how it was trained, as far as its file says; JSON types.

    The file is called by its path, or by `source` where that is a registry's.

    Args:
        source: as `ghn.from_pretrained` takes it.

    Raises:
        GHNError: as `ghn.from_pretrained`.
    """
    with located(source) as path:
        file = file_of(path)
        n_bytes, ghn = file.stat().st_size, load_checkpoint(file)
    return {
        "file": str(file if file.exists() else source),
        "bytes": n_bytes,
        "parameters": sum(parameter.numel() for parameter in ghn.parameters()),
        "classes": ghn.num_classes,
        "image_size": ghn.image_size,
        "config": ghn.config.to_dict(),
        "metadata": {"source": str(source or path.name)} | ghn.metadata,
    }


def convert(
    source: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    released: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a hypernetwork in another format or precision.

    Every format is read again by `ghn.from_pretrained`, which computes in single precision whatever
    a file holds.

    Args:
        source: as `ghn.from_pretrained` takes it.
        out: `NAME.safetensors` in our format, or with the released names and without
            configuration if `released`; `NAME.pt` is a pickle with the released names, as the
            reference writes it.
        released: whether a safetensors file gets the released names.
        dtype: of the tensors in the file.

    Raises:
        ConfigError: the name of the file says no format, or its directory does not exist.
        UnsupportedFormatError: the hypernetwork has a part that released ones do not have, or one
            that the file would not tell.
        GHNError: as `ghn.from_pretrained`.
    """
    path = Path(out)
    if path.suffix not in (".safetensors", *PICKLE):
        raise ConfigError(f"{path}: call the file NAME.safetensors or NAME.pt, which says how")
    check_directory(path)
    ghn = from_pretrained(source).to(dtype)
    if (released or path.suffix in PICKLE) and (unpublished := ghn.config.unpublished):
        has = ", ".join(f"{name} = {value}" for name, value in unpublished.items())
        raise UnsupportedFormatError(
            f"{source} has {has}, which released formats cannot say; convert it to our format"
            " (leave released out)"
        )
    if path.suffix in PICKLE:
        switches = _switches(ghn.config)
        read = config_from_released(switches, infer_config(ghn.state_dict()))
        _check_same(source, ghn.config, read, "our format (leave released out)")
        _save_pickle(ghn, switches, path)
    elif released:
        _check_same(source, ghn.config, infer_config(ghn.state_dict()), "NAME.pt, which has it")
        save_released(ghn, path)
    else:
        metadata = {key: value for key, value in ghn.metadata.items() if key != "source"}
        save_checkpoint(ghn, path, metadata)
    return path


def _check_same(source: object, config: GHNConfig, read: GHNConfig, instead: str) -> None:
    """Refuses a file that would be read as another hypernetwork.

    Raises:
        UnsupportedFormatError: names the first field that it does not tell.
    """
    written, found = config.to_dict(), read.to_dict()
    for name, value in written.items():
        if name not in _UNUSED[config.message_passing] and value != found.get(name):
            raise UnsupportedFormatError(
                f"{source} has {name} = {value}, which such a file does not tell: it would"
                f" be read as {found.get(name)}; convert it to {instead}"
            )


def _switches(config: GHNConfig) -> dict[str, Any]:
    """What shapes do not tell, as released files have it."""
    return {
        "hid": config.hidden,
        "layers": config.layers,
        "heads": config.heads,
        "num_classes": config.num_classes,
        "weight_norm": config.normalize,
        "ve": config.virtual_edges,
        "layernorm": config.layer_norm,
        "is_ghn2": config.window == "corner",
        "decoder": "conv",
    }


def _save_pickle(ghn: GHN, switches: dict[str, Any], path: Path) -> None:
    content = {
        "state_dict": {
            name: tensor.cpu() for name, tensor in to_released(ghn.state_dict()).items()
        },
        "config": switches,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)
