"""Stage sources: fingerprints of what lies outside of the tree: the files that image data sets are
read from, and weights and networks that params.yaml names.

DVC does not look there (GHN_DATA_ROOT, a registry), so this stage looks each time; the stages that
read them depend on what it writes, and run again when they change, come or go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.images import MissingImagesError, find_source
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.finetune import FinetuneStageConfig
from flows.settings.images import ImagesConfig
from flows.settings.inits import BASELINES, hypernetwork_name
from flows.settings.train import TrainStageConfig
from flows.settings.transfer import TransferConfig
from flows.trials.inits import source
from flows.trials.located import weights_stamp
from ghn.errors import GHNError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.tracking.run import StageRun


def run(
    base: BaseConfig,
    images: ImagesConfig,
    train: TrainStageConfig,
    finetune: FinetuneStageConfig,
    transfer: TransferConfig,
    stage: StageRun,
) -> None:
    """Writes data/sources/{images,train,inits,transfer}.json."""
    write(base, images, train, finetune, transfer)


def write(
    base: BaseConfig,
    images: ImagesConfig,
    train: TrainStageConfig,
    finetune: FinetuneStageConfig,
    transfer: TransferConfig,
) -> None:
    """Writes what the data sets, weights and networks are that these sections name."""
    target = transfer.target_name(images.name)
    for path, name, root in (
        (paths.SOURCE, images.name, images.root),
        (paths.TARGET_SOURCE, target, transfer.root),
    ):
        _write(path, {"name": name, "splits": fingerprints(name, root)})
    initial = () if train.initial is None else (train.initial,)
    _write(paths.START_SOURCE, {"initial": _stamps(base, initial), "population": networks(train)})
    _write(paths.INITS_SOURCE, _stamps(base, [*finetune.inits, *transfer.inits]))


def _stamps(base: BaseConfig, inits: Iterable[str]) -> dict[str, str | None]:
    """Of initialisations that are no stage's output: that would be another after each training."""
    own = {paths.weights(base.ghn).resolve(), paths.model(base.ghn).resolve()}
    named = sorted({*inits} - {"ghn", *BASELINES})
    elsewhere = (
        init
        for init in named
        if hypernetwork_name(init) != base.ghn and Path(source(init)).resolve() not in own
    )
    return {init: weights_stamp(init) for init in elsewhere}


def networks(train: TrainStageConfig) -> str | None:
    """What the networks of `train.population` are; None without, or if some are not to be found."""
    if train.population is None:
        return None
    from flows.training.population import Population

    try:
        return Population(train.population).content
    except GHNError:  # the stage that needs them says so
        return None


def fingerprints(name: str, root: str | None) -> dict[str, str] | None:
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
