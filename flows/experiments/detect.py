"""Detection on Penn-Fudan with backbones from each initialisation (paper table 8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from datasets.detection import DetectionImages, load_pennfudan
from flows.networks.build import build_network
from flows.networks.content import architecture_content
from flows.networks.targets import TORCHVISION
from flows.rows.cache import RowCache
from flows.rows.code import code_digest
from flows.rows.digest import digest
from flows.rows.engine import Work
from flows.rows.schema import Row, identity
from flows.settings import paths
from flows.settings.detect import DetectConfig
from flows.settings.fanout import FanOut
from flows.trials.initialise import (
    forget_hypernetworks,
    hypernetwork,
    initialise,
)
from flows.trials.inits import is_hypernetwork, source
from flows.trials.weights import check_weights, weights_content
from ghn.baselines import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.errors import GHNError, MissingDataError
from ghn.randomness import seeded

COLUMNS: dict[str, pa.DataType] = {
    "ap50": pa.float64(),  # average precision at IoU 0.50, a fraction
    "train_loss": pa.list_(pa.float64()),  # mean of each epoch
    "n_train": pa.int64(),
    "n_test": pa.int64(),
}

IMAGE_SIZE = 224
"""Pixels for which backbones are built: their stems downsample as torchvision's do."""


@dataclass(frozen=True)
class Job:
    """One detector.

    Attributes:
        backbone: a ResNet of torchvision.
        init: of the backbone.
        seed: of everything random.
        weights: content of the hypernetwork.
    """

    backbone: str
    init: str
    seed: int
    weights: str

    def __str__(self) -> str:
        return f"{self.backbone} from {self.init}, seed {self.seed}"


@dataclass(frozen=True)
class Detect:
    """Trains and scores one detector; travels to the workers."""

    config: DetectConfig
    num_classes: int
    device: str

    def __call__(self, job: Job) -> Row:
        """The columns of the detector's row."""
        # torchvision's detectors take seconds to import
        from flows.experiments.detection import run_detection

        check_weights(job.init, job.weights)
        with seeded(job.seed):
            resnet, graph = build_network(job.backbone, self.num_classes, IMAGE_SIZE)
        initialise(
            resnet,
            graph,
            job.init,
            seed=job.seed,
            train=None,
            image_shape=(3, IMAGE_SIZE, IMAGE_SIZE),
            num_classes=self.num_classes,
            beta=self.config.beta,
            gradinit_config=GradInitConfig(),
            metainit_config=MetaInitConfig(),
            nio_config=NIOConfig(),
        )
        config = self.config
        images = _images(config.n_images)
        return run_detection(resnet, images, config.n_test, config.detector, job.seed, self.device)


def detect(config: DetectConfig, ghn: str, seed: int, device: str, fanout: FanOut) -> list[Row]:
    """A row per detector; those that the cache does not have are trained.

    Raises:
        MissingDataError: the images of Penn-Fudan are absent.
    """
    forget_hypernetworks()
    _images.cache_clear()
    try:
        images = _images(config.n_images).digest
    except (GHNError, OSError) as absent:
        raise MissingDataError(
            f"the images of Penn-Fudan are not there ({absent}); docs/images.md says where they"
            " belong"
        ) from absent
    inits = {name: ghn if name == "ghn" else name for name in config.inits}
    contents = {init: weights_content(init) for init in inits.values()}
    jobs = [
        Job(backbone, inits[name], seed + i, contents[inits[name]])
        for backbone in config.backbones
        for name in config.inits
        for i in range(config.seeds)
    ]
    num_classes = _num_classes(ghn)
    settings = config.model_dump(mode="json", exclude={"backbones", "inits", "seeds"})
    common = digest(images, num_classes, settings, code_digest("flows.experiments.detect"))

    def key(job: Job) -> str:
        return digest(common, job.init, job.seed, job.weights, architecture_content(job.backbone))

    def head(job: Job) -> Row:
        data = digest(images, job.weights, architecture_content(job.backbone))
        return identity(job.backbone, TORCHVISION, job.init, job.seed, data)

    work = Work("detect", jobs, Detect(config, num_classes, device), key, head)
    with RowCache(paths.CACHE / "detect.jsonl") as cache:
        return work.rows(cache, fanout)


def absent(config: DetectConfig, ghn: str, seed: int, error: Exception) -> list[Row]:
    """A row per detector that says why it is not there."""
    return [
        identity(backbone, TORCHVISION, ghn if init == "ghn" else init, seed + i, "", error)
        for backbone in config.backbones
        for init in config.inits
        for i in range(config.seeds)
    ]


@lru_cache(maxsize=2)
def _images(n: int | None) -> DetectionImages:
    everything = load_pennfudan()
    return everything if n is None or n >= len(everything) else everything.subset(range(n))


def _num_classes(ghn: str) -> int:
    """Classes of the backbone's own head, which is thrown away: those that the hypernetwork was
    trained on.
    """
    return int(hypernetwork(source(ghn)).config.num_classes) if is_hypernetwork(ghn) else 1000
