"""What a trial is: one network from one initialisation, with its data and the grid that it is tuned
over.

Each grid point becomes a row with a curve, known by a digest of all that the row depends on.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from flows.rows.results import code_digest, digest
from flows.trials.images import ImagesSpec, images_digest
from flows.trials.initialise import source
from ghn.baselines import GradInitConfig, MetaInitConfig
from ghn.files import sha256
from ghn.finetune import FinetuneConfig

COLUMNS: dict[str, pa.DataType] = {
    "images": pa.string(),
    "lr": pa.float64(),
    "weight_decay": pa.float64(),
    "optimizer": pa.string(),
    "schedule": pa.string(),
    "steps": pa.int64(),
    "batch_size": pa.int64(),
    "step": pa.list_(pa.int64()),
    "val_accuracy": pa.list_(pa.float64()),
    "train_loss": pa.list_(pa.float64()),
    "train_accuracy": pa.list_(pa.float64()),
    "best_val_accuracy": pa.float64(),
    "final_val_accuracy": pa.float64(),
    "selected": pa.bool_(),
    "test_accuracy": pa.float64(),
    "n_train": pa.int64(),
    "n_val": pa.int64(),
    "n_test": pa.int64(),
    "diverged": pa.bool_(),
    "init_seconds": pa.float64(),
    "train_seconds": pa.float64(),
    "steps_per_second": pa.float64(),
    "pretrain": pa.string(),
    "trial": pa.string(),
    "logits": pa.list_(pa.float32()),
    "labels": pa.list_(pa.int64()),
}
"""Columns of a row besides `flows.rows.results.IDENTITY`; accuracies are fractions."""

CODE = (
    "ghn/architectures",
    "ghn/baselines",
    "ghn/finetune",
    "ghn/graph",
    "ghn/models",
    "ghn/predict",
    "datasets/deepnets",
    "datasets/images",
    "flows/networks/targets.py",
    "flows/trials",
)
"""Sources that a row depends on."""


class Grid(BaseModel):
    """The points that every initialisation is tuned over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr: tuple[float, ...] = (0.1, 0.01)
    weight_decay: tuple[float, ...] = (3e-5,)
    optimizer: tuple[str, ...] = ("sgd",)

    def points(self, base: FinetuneConfig) -> list[FinetuneConfig]:
        """One configuration per point."""
        names = ("lr", "weight_decay", "optimizer")
        values = product(self.lr, self.weight_decay, self.optimizer)
        return [
            FinetuneConfig(**{**base.model_dump(), **dict(zip(names, point, strict=True))})
            for point in values
        ]


class Trial(BaseModel):
    """All that a trial's rows depend on, but the content of files, which `key` adds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    init: str
    seed: int
    images: ImagesSpec
    grid: Grid = Grid()
    finetune: FinetuneConfig = FinetuneConfig()
    beta: float = 1e-5
    gradinit: GradInitConfig = GradInitConfig()
    metainit: MetaInitConfig = MetaInitConfig()
    source_images: ImagesSpec | None = Field(
        default=None, description="transfer: what the hypernetwork was trained on"
    )
    pretrain: FinetuneConfig | None = Field(
        default=None, description="transfer: training on the source first"
    )
    checkpoints: bool = Field(
        default=False, description="keep the state of a point at every evaluation"
    )
    keep_logits: bool = Field(
        default=False, description="the chosen row has its logits on the test images"
    )
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.architecture} from {self.init}, seed {self.seed}"

    def data_hash(self) -> str:
        """Digest of the images and of the hypernetwork."""
        contents = [weights_digest(source(self.init))]
        contents += [
            images_digest(spec) for spec in (self.images, self.source_images) if spec is not None
        ]
        return digest(*contents)

    def keys(self, data_hash: str) -> dict[str, FinetuneConfig]:
        """The points of the grid by the digest of everything that a point's row depends on.

        The other points of the grid do not enter.
        """
        apart = {"grid", "finetune", "device", "checkpoints"}
        apart |= {name for name in ("gradinit", "metainit") if name != self.init}
        settings = self.model_dump(mode="json", exclude=apart)
        common = (settings, data_hash, code_digest(*CODE))
        return {
            digest(*common, point.model_dump(mode="json")): point
            for point in self.grid.points(self.finetune)
        }


def weights_digest(location: str) -> str:
    """Of a file's content; of anything else (a baseline, a registry version) its name."""
    path = Path(location)
    if not path.is_file():
        return location
    status = path.stat()
    return _file_digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _file_digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256(path)
