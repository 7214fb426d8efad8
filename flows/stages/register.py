"""Stage register: the trained hypernetwork becomes a version in the MLflow registry, and the
champion if it is better.

It is logged as an MLflow model (`flows.serving`), so that `mlflow.pyfunc.load_model` and `mlflow
models serve` work. The version's tags lead back to everything it was made from: the run of this
stage, the git revision, the DVC hashes of weights, architectures, images and results, and its
accuracy. `flows.registry.promotion` decides whether it becomes @champion.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flows.rows.provenance import dvc_hash
from flows.settings import paths
from flows.tracking.client import SPOOL
from flows.tracking.origin import flatten
from flows.tracking.spool import MODELS
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.settings.images import ImagesConfig
    from flows.settings.register import RegisterConfig
    from flows.tracking.run import StageRun
    from ghn.models import GHN

REGISTRATION = paths.RESULTS / "registration.json"


def run(base: BaseConfig, images: ImagesConfig, register: RegisterConfig, stage: StageRun) -> None:
    """Registers models/<ghn> and writes results/registration.json: what the version's tags say."""
    from ghn import from_pretrained

    weights = paths.weights(base.ghn)
    hypernetwork = from_pretrained(weights)  # a damaged file is not registered
    try:
        summary = json.loads(paths.EVALUATION_SUMMARY.read_text())
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{paths.EVALUATION_SUMMARY} cannot be read ({error}); `dvc repro evaluate` makes it"
        ) from None
    splits = [path for name in summary if (path := paths.DEEPNETS / f"{name}.h5").exists()]
    sources = (paths.DEEPNETS, *splits, paths.images(images.name), weights, paths.EVALUATION)
    record = {
        "name": register.name,
        "data_set": images.name,
        "image_size": images.image_size,
        "variant": hypernetwork.metadata.get("variant") or _variant(hypernetwork),
        "hypernetwork": _describe(hypernetwork),
        "parameters": sum(parameter.numel() for parameter in hypernetwork.parameters()),
        "dvc": {path.as_posix(): dvc_hash(path) for path in sources},
        "metrics": flatten(summary),
    }
    with atomic_path(REGISTRATION) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    pooled = summary.get("deepnets") or next(iter(summary.values()))
    description = (
        f"Graph hypernetwork trained on {images.name} at {images.image_size} pixels:"
        f" mean accuracy {pooled.get('mean', 0):.1%} of unseen DeepNets-1M architectures without"
        f" training, {pooled['chance']:.1%} being chance"
    )
    from flows.serving.package import package

    # In the spool, since the registry may be away: it is removed as soon as it is uploaded.
    directory = SPOOL / MODELS / stage.log_id
    stage.register_model(
        register.name,
        package(weights, directory, paths.EVALUATION),
        tags={key: value for key, value in flatten(record).items() if _is_tag(key)},
        alias=register.alias,
        description=description,
    )


def _is_tag(key: str) -> bool:
    """Whether an entry of the record is a tag of the version, whose page shows all of them in one
    cell: of the numbers the means are.
    """
    return key != "name" and (not key.startswith("metrics.") or key.endswith("mean"))


def _variant(hypernetwork: GHN) -> str:
    """The paper's name of the variant, such as ghn3-t, or what it is made of; for weights that do
    not say it.
    """
    from ghn.models import VARIANTS, GHNConfig

    config = hypernetwork.config
    for name in VARIANTS:
        if config == GHNConfig.variant(name, config.num_classes):
            return name
    return _describe(hypernetwork)


def _describe(hypernetwork: GHN) -> str:
    """Names what tells a small hypernetwork of a profile from the variant of the paper that it is
    derived from.
    """
    config = hypernetwork.config
    return f"{config.message_passing} d{config.hidden} l{config.layers} h{config.heads}"
