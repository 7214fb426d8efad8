"""Stage sources: fingerprints of the files that image data sets are read from, wherever they are.

They lie outside of the tree (GHN_DATA_ROOT), where DVC does not look, so this stage looks each
time; the stages that read the images depend on what it writes, and run again when files change,
come or go.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.images import MissingImagesError, find_source
from flows.settings import paths
from flows.settings.images import ImagesConfig
from flows.settings.transfer import TransferConfig
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.tracking.run import StageRun


def run(images: ImagesConfig, transfer: TransferConfig, stage: StageRun) -> None:
    """Writes data/sources/{images,transfer}.json."""
    write(images, transfer)


def write(images: ImagesConfig, transfer: TransferConfig) -> None:
    """Writes what the data sets of the pipeline and of its transfer are made of."""
    target = transfer.target_name(images.name)
    for path, name, root in (
        (paths.SOURCE, images.name, images.root),
        (paths.TARGET_SOURCE, target, transfer.root),
    ):
        _write(path, {"name": name, "splits": fingerprints(name, root)})


def fingerprints(name: str, root: str | None = None) -> dict[str, str] | None:
    """Returns, by stored split, what changes with its files; None where there are none.

    Raises:
        DamagedFileError: a file is broken.
    """
    try:
        tables = find_source(name, root)
    except MissingImagesError:
        return None
    return {split: table.digest for split, table in sorted(tables.items())}


def _write(path: Path, content: object) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
