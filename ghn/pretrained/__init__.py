"""The hypernetworks that come with the package: `NAME.safetensors` beside this file."""

from __future__ import annotations

from pathlib import Path


def packaged() -> dict[str, Path]:
    """The file of each, by its name, in the order of names."""
    files = sorted(Path(__file__).parent.glob("*.safetensors"))
    return {file.name.removesuffix(".safetensors"): file for file in files}
