"""Settings of the experiments on detection."""

from __future__ import annotations

from pydantic import Field

from ghn.settings import Once, Settings


class DetectorConfig(Settings):
    """The detector and its training; the defaults are the published setting."""

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


class DetectConfig(Settings):
    """Which detectors are trained, from what, how often."""

    backbones: Once[str] = Field(default=("resnet50", "resnet101", "resnet152"), min_length=1)
    inits: Once[str] = Field(default=("ghn", "randinit"), min_length=1)
    seeds: int = Field(default=3, ge=1, description="each with its own split of the images")
    n_images: int | None = Field(
        default=None, ge=4, description="only the first so many; null: all 170"
    )
    n_test: int = Field(default=50, ge=1)
    beta: float = Field(default=1e-5, ge=0)
    detector: DetectorConfig = Field(default_factory=DetectorConfig)
