"""Detection on Penn-Fudan with backbones from each initialisation (paper table 8)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from datasets.detection import DetectionImages, load_pennfudan
from flows.compute.fanout import FanOut, fan_out
from flows.networks.build import build_network
from flows.networks.targets import TORCHVISION
from flows.rows.results import Row, RowCache, code_digest, digest, identity, write_rows
from flows.settings import paths
from flows.trials.initialise import initialise, is_hypernetwork, source
from flows.trials.spec import weights_digest
from ghn.baselines import GradInitConfig, MetaInitConfig
from ghn.errors import GHNError

CODE = (
    "ghn",
    "datasets/detection",
    "flows/experiments/detection.py",
    "flows/stages/detect.py",
    "flows/trials/initialise.py",
)
"""Sources that a row depends on."""

COLUMNS: dict[str, pa.DataType] = {
    "ap50": pa.float64(),  # average precision at IoU 0.50, a fraction
    "train_loss": pa.list_(pa.float64()),  # mean of each epoch
    "n_train": pa.int64(),
    "n_test": pa.int64(),
    "seconds": pa.float64(),
}

IMAGE_SIZE = 224
"""Pixels for which backbones are built: their stems downsample as torchvision's do."""


class DetectorConfig(BaseModel):
    """The detector and its training; the defaults are the published setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_size: int = Field(
        default=800, ge=32, description="pixels of the shorter side after scaling"
    )
    max_size: int = Field(default=1333, ge=32)
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    representation: int = Field(default=1024, ge=8, description="width of the box head")
    rois: int = Field(
        default=512, ge=4, description="regions per image that the box head trains on"
    )
    proposals: int = Field(
        default=1000, ge=10, description="regions per image that are looked at when detecting"
    )
    epochs: int = Field(default=10, ge=1)
    decay_every: int = Field(
        default=3, ge=1, description="epochs after which the learning rate is divided by 10"
    )
    lr: float = Field(default=0.005, gt=0)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = Field(default=2, ge=1)
    grad_clip: float | None = Field(default=5.0, gt=0)


class DetectConfig(BaseModel):
    """Which detectors are trained, from what, how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbones: tuple[str, ...] = Field(default=("resnet50", "resnet101", "resnet152"), min_length=1)
    inits: tuple[str, ...] = Field(default=("ghn", "randinit"), min_length=1)
    seeds: int = Field(default=3, ge=1, description="each with its own split of the images")
    n_images: int | None = Field(
        default=None, ge=4, description="only the first so many; null: all 170"
    )
    n_test: int = Field(default=50, ge=1)
    beta: float = Field(default=1e-5, ge=0)
    detector: DetectorConfig = Field(default_factory=DetectorConfig)


@dataclass(frozen=True)
class Job:
    """One detector."""

    backbone: str
    init: str
    seed: int

    def __str__(self) -> str:
        return f"{self.backbone} from {self.init}, seed {self.seed}"


@dataclass(frozen=True)
class Detect:
    """Trains and scores one detector; travels to the workers."""

    config: DetectConfig
    num_classes: int
    device: str

    def __call__(self, job: Job) -> tuple[Job, Row | str]:
        """The job with its columns, or why it failed."""
        from flows.experiments.detection import (
            run_detection,
        )  # torchvision's detectors take seconds to import

        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(job.seed)
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
            )
            config = self.config
            return job, run_detection(
                resnet,
                _images(config.n_images),
                config.n_test,
                config.detector,
                job.seed,
                self.device,
            )
        except Exception as error:  # not every exception survives the way between processes
            return job, f"{type(error).__name__}: {error}"


def detect(
    config: DetectConfig, ghn: str, seed: int, device: str, fanout: FanOut, out: Path
) -> list[Row]:
    """Trains all detectors that the cache does not have and writes the rows to `out`.

    Where the images of Penn-Fudan are absent each detector has a row that says so.
    """
    jobs = [
        Job(backbone, ghn if init == "ghn" else init, seed + i)
        for backbone in config.backbones
        for init in config.inits
        for i in range(config.seeds)
    ]
    try:
        data = _images(config.n_images).digest
    except (GHNError, OSError) as absent:
        rows = [identity(job.backbone, TORCHVISION, job.init, job.seed, "", absent) for job in jobs]
        write_rows(out, rows, COLUMNS)
        return rows
    settings = config.model_dump(mode="json", exclude={"backbones", "inits", "seeds"})
    hashes = {job.init: digest(data, weights_digest(source(job.init))) for job in jobs}
    keys = {
        job: digest(
            job.backbone, job.init, job.seed, hashes[job.init], settings, code_digest(*CODE)
        )
        for job in jobs
    }
    found: dict[Job, Row] = {}
    with RowCache(paths.CACHE / "detect.jsonl") as cache:
        found.update({job: row for job, key in keys.items() if (row := cache.get(key)) is not None})
        rest = [job for job in jobs if job not in found]
        if found:
            tqdm.write(f"detect: {len(found)} of {len(jobs)} rows are there already")
        function = Detect(config, _num_classes(ghn), device)
        outcomes = fan_out(function, rest, fanout, describe=str, failed=_failed, title="detect")
        for job, outcome in outcomes if rest else ():
            error = outcome if isinstance(outcome, str) else None
            head = identity(job.backbone, TORCHVISION, job.init, job.seed, hashes[job.init], error)
            found[job] = head | ({} if isinstance(outcome, str) else outcome)
            if error is None:
                cache.put(keys[job], found[job])
    rows = [found[job] for job in jobs]
    write_rows(out, rows, COLUMNS)
    return rows


@lru_cache(maxsize=2)
def _images(n: int | None) -> DetectionImages:
    everything = load_pennfudan()
    return everything if n is None or n >= len(everything) else everything.subset(range(n))


def _num_classes(ghn: str) -> int:
    """Classes of the backbone's own head, which is thrown away: those that the hypernetwork was
    trained on.
    """
    from flows.trials.initialise import hypernetwork

    return int(hypernetwork(source(ghn)).config.num_classes) if is_hypernetwork(ghn) else 1000


def _failed(job: Job, error: Exception) -> tuple[Job, Row | str]:
    return job, f"{type(error).__name__}: {error}"
