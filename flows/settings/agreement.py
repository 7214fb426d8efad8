"""What is wrong in a section of params.yaml only beside the others, or beside what is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.settings import paths
from flows.settings.inits import BASELINES, SELECTION, hypernetwork_name, selected_file
from ghn.names import packaged


def check_split(split: str, known: Iterable[str]) -> None:
    """Checks that networks of a split can be trained on.

    Args:
        split: its name.
        known: those with rules; another may have been imported.

    Raises:
        ValueError: it is none of these.
    """
    if split not in known and not _exists(paths.DEEPNETS / f"{split}.h5"):
        raise ValueError(f"no split of generate.splits; known: {', '.join(known)}")


def check_name(ghn: str) -> None:
    """Raises ValueError if the pipeline's hypernetwork is called as another start is."""
    if ghn in BASELINES:
        raise ValueError(f"it is the name of another start, as {', '.join(BASELINES)} are")


def check_init(init: str, ghn: str) -> None:
    """Checks that an initialisation can mean something; a file or an address need not be there yet.

    Args:
        init: an entry of `inits`.
        ghn: the hypernetwork of the pipeline, which is trained first.

    Raises:
        ValueError: it cannot; says what is allowed.
    """
    starts = ("ghn", *(name for name in BASELINES if name != SELECTION))
    name = hypernetwork_name(init)
    if init in starts or selected_file(init) or name == ghn or _is_place(name):
        return
    from ghn.checkpoint.sources import RELEASED

    named = (*packaged(), *RELEASED)
    if name in named or f"{name}.pt" in RELEASED:
        return
    raise ValueError(
        f"no such start; use {', '.join(starts)}, {SELECTION}=FILE, or a hypernetwork: {ghn},"
        f" another of {paths.MODELS}/, a file, {', '.join(named)}, hf://owner/repository/file,"
        " models:/name@alias; HYPERNETWORK+orthN orthogonalises its weights from layer N on"
    )


def _is_place(name: str) -> bool:
    """Whether the name of a hypernetwork is a file's or an address, or is there."""
    return name != "ghn" and (
        any(mark in name for mark in "/:")
        or Path(name).suffix in (".pt", ".pth", ".safetensors")
        or _exists(Path(name))
        or _exists(paths.weights(name))
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name of a file, being too long
        return False
