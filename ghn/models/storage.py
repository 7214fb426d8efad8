"""Our file of a hypernetwork: safetensors, with its configuration in the header.

The header has one entry, JSON: the version of the format, the configuration, metadata, and a digest
of all that is in the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import Tensor, nn

from ghn.errors import DamagedFileError, UnsupportedFormatError
from ghn.files import atomic_path, content_digest
from ghn.models.config import GHNConfig

WEIGHTS_FILE = "ghn.safetensors"
"""Name of the weights inside a directory (a model version of an MLflow registry, a training run, a
repository of the Hugging Face hub).
"""

HEADER = "ghn"
"""Key of our JSON in the metadata of a safetensors file."""

_VERSION = 1


def write_weights(
    weights: Mapping[str, Tensor],
    config: GHNConfig,
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a state dict; the file is whole or absent, and the same for the same content.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "version": _VERSION,
        "config": config.to_dict(),
        "metadata": dict(metadata or {}),
    }
    header: dict[str, Any] = json.loads(json.dumps(content))  # as it is read again
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    header["digest"] = content_digest(state, json.dumps(header, sort_keys=True))
    with atomic_path(path) as temporary:
        # One key only: safetensors writes several in an order that changes from run to run.
        save_file(state, temporary, metadata={HEADER: json.dumps(header, sort_keys=True)})


def described(
    path: Path, state: dict[str, Tensor], header: Mapping[str, str]
) -> tuple[GHNConfig, dict[str, Any]]:
    """The configuration and the metadata of a file, from its tensors and its header.

    Raises:
        DamagedFileError: the header cannot be read, or the content is not what was written.
        UnsupportedFormatError: a newer version of the format.
    """
    try:
        ours = json.loads(header[HEADER])
        version, config, metadata = ours["version"], ours["config"], ours.get("metadata", {})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        if "architecture" in header:  # in files of `ghn init`, whose `ghn` is a hypernetwork's name
            raise UnsupportedFormatError(
                f"{path} has the parameters of {header['architecture']}, not a hypernetwork; `ghn"
                " evaluate` and ghn.load_initialized take it"
            ) from None
        raise DamagedFileError(
            f"{path}: its header has no readable configuration ({error!r})"
        ) from error
    if not isinstance(version, int) or version > _VERSION:
        raise UnsupportedFormatError(
            f"{path} has version {version} of the format; this program reads up to {_VERSION}:"
            " upgrade it"
        )
    _verify(path, state, ours)
    return GHNConfig.from_dict(config), metadata


def _verify(path: Path, state: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Compares the content with the digest in its header; older files have none."""
    if unknown := sorted(header.keys() - {"version", "config", "metadata", "digest"}):
        raise DamagedFileError(f"{path}: its header has the unknown entry {unknown[0]!r}")
    if (digest := header.pop("digest", None)) is None:
        return
    if content_digest(state, json.dumps(header, sort_keys=True)) != digest:
        raise DamagedFileError(
            f"{path} is damaged: its content is not what was written; restore it (`dvc checkout`)"
            " or make it again"
        )


H = TypeVar("H", bound=nn.Module)


def filled(ghn: H, config: GHNConfig, path: Path, state: Mapping[str, Tensor]) -> H:
    """A hypernetwork of a configuration, which is on the meta device, with the weights of a file,
    in evaluation mode.

    Raises:
        DamagedFileError: they do not fit.
    """
    own = ghn.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not part of it" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DamagedFileError(
            f"{path} does not fit its configuration {config.to_json()}: {problems[0]}{more}"
        )
    ghn.load_state_dict(state, assign=True)
    ghn.float().requires_grad_(True)  # half precision is for files: decoders overflow in it
    return ghn.eval()
