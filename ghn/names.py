"""Names that a user can type, found without importing PyTorch: what lists and completes them.

torchvision and timm register their networks with a decorator, so the names stand in their source
files; a test holds this list against the one that the libraries give.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ghn.errors import MissingDependencyError, UnknownArchitectureError

TIMM_PREFIX = "timm/"
_LITTLE = (
    "alexnet", "alexnet_wider", "convnext", "convnext_deeper", "convnext_wider", "densenet",
    "efficientnet", "efficientnet_v2", "mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet_x",
    "regnet_y", "resnet", "resnet_bottleneck", "resnext", "shufflenet_v2", "shufflenet_v2_deeper",
    "shufflenet_v2_wider", "squeezenet", "squeezenet_deeper", "squeezenet_wider", "swin",
    "swin_deeper", "swin_v2", "swin_wider", "vgg", "vgg_bn", "vgg_deeper", "vgg_wider", "vit",
    "vit_deeper", "vit_wider",
)  # fmt: skip
_REGISTERED = re.compile(r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", re.MULTILINE)


@lru_cache
def torchvision_names() -> tuple[str, ...]:
    """What `ghn.architectures.available` gives: torchvision's classification models, and variants
    of them.
    """
    names = _registered("torchvision")
    variants = ["resnet1000", "vit_1_2b", *(f"little_{name}" for name in _LITTLE)]
    variants += [f"{name}_relu" for name in names if name.startswith("efficientnet_")]
    variants += [f"{name}_gap" for name in names if name.startswith("vit_")]
    return (*names, *sorted(variants))


@lru_cache
def timm_names() -> tuple[str, ...]:
    """All networks of timm, as `timm/<name>`; none where it is not installed."""
    return tuple(f"{TIMM_PREFIX}{name}" for name in _registered("timm"))


def _registered(package: str) -> list[str]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    files = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return sorted({name for file in files for name in _REGISTERED.findall(file.read_text())})


def find(pattern: str | None, *, timm: bool = False) -> list[str]:
    """The names that fit a pattern of the shell (`resnet*`), sorted; all of them without one.

    Args:
        pattern: with or without the prefix `timm/`.
        timm: whether timm's networks are asked for rather than torchvision's.

    Raises:
        MissingDependencyError: timm is asked for and not installed.
        UnknownArchitectureError: none fits; the message has the nearest.
    """
    known = timm_names() if timm else torchvision_names()
    if timm and not known:
        raise MissingDependencyError("the networks of timm need timm: pip install timm")
    if pattern is None:
        return list(known)
    full = f"{TIMM_PREFIX}{pattern}" if timm and not pattern.startswith(TIMM_PREFIX) else pattern
    if found := [name for name in known if fnmatchcase(name, full)]:
        return found
    near = difflib.get_close_matches(full.strip("*?"), known, n=3)
    raise UnknownArchitectureError(
        f"no network fits {pattern!r}; {nearest(near) or 'try a pattern such as resnet*'}"
    )


def nearest(names: Iterable[str]) -> str:
    """The end of a message about an unknown name; empty where nothing is near."""
    listed = ", ".join(names)
    return f"nearest: {listed}" if listed else ""


def packaged() -> dict[str, Path]:
    """The files of the hypernetworks that come with the package, by their names in order."""
    files = sorted(Path(__file__).with_name("pretrained").glob("*.safetensors"))
    return {file.name.removesuffix(".safetensors"): file for file in files}
