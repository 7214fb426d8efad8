"""Architectures by their content: the same id in another split is noticed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from flows.networks.targets import NO_NORM, open_split, target
from flows.rows.digest import digest
from flows.settings import paths
from ghn.errors import UnknownArchitectureError


def architecture_content(architecture: str) -> str:
    """Digest of an architecture: its encoding in its split, or its package's version.

    Raises:
        GHNError: its split is missing or damaged, or does not have it.
    """
    wanted = target(architecture.removesuffix(NO_NORM))
    if wanted.index is None:
        library = "timm" if wanted.name.startswith("timm/") else "torchvision"
        try:
            return digest(architecture, version(library))
        except PackageNotFoundError:
            raise UnknownArchitectureError(
                f"{architecture} needs {library}: pip install {library}"
            ) from None
    split = open_split(paths.DEEPNETS, wanted.split)
    if wanted.index >= len(split):
        raise UnknownArchitectureError(
            f"{architecture}: split {wanted.split} has {len(split)} architectures; `dvc repro`"
            " makes the results anew that name it"
        )
    code = split.code[wanted.index].tobytes().hex()
    if split.header.origin == "generated":
        return digest(architecture, code)
    graph = split.stored(wanted.index, wanted.index + 1).checksums.tolist()
    return digest(architecture, code, graph)
