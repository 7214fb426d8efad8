"""Checkpoint files: ours, safetensors with the configuration in their metadata, and released ones
in any format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ghn.checkpoint.names import (
    config_from_released,
    from_released,
    infer_config,
    is_released,
    to_released,
    without_wrappers,
)
from ghn.checkpoint.unpickler import load_untrusted
from ghn.errors import DamagedFileError, UnsupportedFormatError
from ghn.files import atomic_path, read_safetensors
from ghn.models.config import GHNConfig
from ghn.models.hypernetwork import GHN
from ghn.models.storage import HEADER, described, filled, write_weights
from ghn.models.storage import WEIGHTS_FILE as WEIGHTS_FILE


def save_checkpoint(
    ghn: GHN, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a hypernetwork as safetensors, its configuration and `metadata` (JSON types) in the
    header.

    The file is whole or absent, and the same for the same weights and metadata. The header has a
    digest of all that is in it, by which `load_checkpoint` tells a damaged file.

    Raises:
        OSError: the file cannot be written.
    """
    write_weights(ghn.state_dict(), ghn.config, path, metadata)


def save_released(ghn: GHN, path: str | os.PathLike[str]) -> None:
    """Writes a hypernetwork as safetensors with the names that the reference uses, for exchange
    with it.
    """
    state = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in to_released(ghn.state_dict()).items()
    }
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def load_checkpoint(path: str | os.PathLike[str]) -> GHN:
    """A hypernetwork from a file (safetensors, or a released joblib or torch pickle) or from a
    directory that has one.

    It is in evaluation mode, on the CPU; `metadata` holds what the file says about it.

    Raises:
        DamagedFileError: the file does not exist, is truncated, its tensors do not fit its
            configuration, or its content is not what was written.
        UnsupportedFormatError: it is no hypernetwork, or one of a newer version of the format.
        UntrustedPickleError: a pickle asks for more than tensors and containers.
    """
    path = file_of(path)
    config, state, metadata = (
        _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    )
    return _build(path, config, state, metadata)


def file_of(path: str | os.PathLike[str]) -> Path:
    """The file of weights that a path, of a file or of a directory that has one, means.

    Raises:
        DamagedFileError: it does not exist.
        UnsupportedFormatError: a directory holds none, or several.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise DamagedFileError(f"{path} does not exist")
    return path


def _weights_in(directory: Path) -> Path:
    """The weights of a training run or of a model of an MLflow registry, which also holds code."""
    found = [
        path
        for path in sorted(directory.rglob(WEIGHTS_FILE))
        if not _is_aside(path.relative_to(directory))
    ]
    if not found:
        places = (directory, directory / "artifacts")
        files = [path for place in places if place.is_dir() for path in sorted(place.iterdir())]
        found = [path for path in files if path.is_file() and _is_safetensors(path)]
    if len(found) != 1:
        problem = f"{len(found)} safetensors files" if found else f"no {WEIGHTS_FILE}"
        raise UnsupportedFormatError(f"{directory} holds {problem}; name the file")
    return found[0]


def _is_aside(path: Path) -> bool:
    """Whether a path in a directory is that of code or hidden."""
    return path.parts[0] == "code" or any(part.startswith(".") for part in path.parts)


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the size of a JSON header, and one."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _read_safetensors(path: Path) -> tuple[GHNConfig | None, dict[str, Tensor], dict[str, Any]]:
    state, header = read_safetensors(path)
    if HEADER not in header:
        if header.keys() - {"format"} and not is_released(state):
            raise DamagedFileError(f"{path}: its header has no entry {HEADER!r}")
        return None, state, {}
    config, metadata = described(path, state, header)
    return config, state, metadata


def _read_pickle(path: Path) -> tuple[GHNConfig | None, dict[str, Tensor], dict[str, Any]]:
    content = load_untrusted(path)
    if not isinstance(content, dict):
        raise UnsupportedFormatError(f"{path} holds a {type(content).__name__}, not a state dict")
    state = content.get("state_dict", content)
    config = content.get("config") if "state_dict" in content else None
    if not isinstance(state, dict):
        raise UnsupportedFormatError(f"{path} holds no state dict of tensors")
    tensors = {
        str(name): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in state.items()
        if isinstance(value, (Tensor, np.ndarray))
    }
    if not tensors or len(tensors) != len(state):
        raise UnsupportedFormatError(f"{path} holds no state dict of tensors")
    metadata = {key: content[key] for key in ("epoch", "step") if isinstance(content.get(key), int)}
    if config is not None:
        if not isinstance(config, dict):
            raise UnsupportedFormatError(
                f"{path}: its config is a {type(config).__name__}, not a dictionary"
            )
        return config_from_released(config, infer_config(_ours(tensors))), tensors, metadata
    return None, tensors, metadata


def _ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {without_wrappers(name): tensor for name, tensor in state.items()}
    return from_released(state) if is_released(state) else state


def _build(
    path: Path, config: GHNConfig | None, state: dict[str, Tensor], metadata: dict[str, Any]
) -> GHN:
    try:
        state = _ours(state)
        config = config or infer_config(state)
    except UnsupportedFormatError as error:
        raise UnsupportedFormatError(f"{path}: {error}") from None
    ghn = filled(GHN.empty(config), config, path, state)
    ghn.metadata = metadata
    return ghn
