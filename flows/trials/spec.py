"""What a trial is: one network from one initialisation, with its data and the grid that it is tuned
over.

Each grid point becomes a row with a curve, known by a digest of all that the row depends on.
"""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from flows.networks.content import architecture_content
from flows.rows.code import code_digest
from flows.rows.digest import digest
from flows.settings.images import ImagesSpec
from flows.settings.inits import SELECTION
from flows.settings.trials import Grid, Larger
from flows.trials import samples
from flows.trials.images import images_digest
from flows.trials.weights import weights_content
from ghn.baselines.config import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.errors import ConfigError
from ghn.finetune.config import FinetuneConfig
from ghn.settings import Settings

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
    "pretrain": pa.string(),
    "trial": pa.string(),
    "logits": pa.list_(pa.float32()),
    "labels": pa.list_(pa.int64()),
    **samples.COLUMNS,
}
"""Columns of a row besides `flows.rows.schema.IDENTITY`; accuracies are fractions."""


class Trial(Settings):
    """A trial says all that its rows depend on, but the content of files, which `key` adds."""

    architecture: str
    init: str
    seed: int
    images: ImagesSpec
    grid: Grid = Grid()
    finetune: FinetuneConfig = FinetuneConfig()
    beta: float = 1e-5
    gradinit: GradInitConfig = GradInitConfig()
    metainit: MetaInitConfig = MetaInitConfig()
    nio: NIOConfig = NIOConfig()
    source_images: ImagesSpec | None = Field(
        default=None, description="transfer: what the hypernetwork was trained on"
    )
    pretrain: FinetuneConfig | None = Field(
        default=None, description="transfer: training on the source first"
    )
    larger: Larger | None = Field(
        default=None, description="selection: the network whose weights are taken"
    )
    checkpoints: bool = Field(
        default=False, description="keep the state of a point at every evaluation"
    )
    keep_logits: bool = Field(
        default=False, description="the chosen row has its logits on the test images"
    )
    samples: int = Field(
        default=0,
        ge=0,
        description="the chosen row has its answers on so many test images, and filters",
    )
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.architecture} from {self.init}, seed {self.seed}"

    def data_hash(self) -> str:
        """Digest of the hypernetwork, the architectures and the images, by content.

        Raises:
            ConfigError: weights are to be selected from no network.
            GHNError: one of them is missing or damaged.
        """
        architectures = [self.architecture]
        if self.init == SELECTION:
            if self.larger is None:
                raise ConfigError(
                    f"{self}: weights are selected from a larger network; name it as `larger` of"
                    " the experiment, or give its state dict: selection=<file>"
                )
            architectures.append(self.larger.architecture)
        specs = (self.images, self.source_images)
        return digest(
            weights_content(self.init),
            *(architecture_content(name) for name in architectures),
            *(images_digest(spec) for spec in specs if spec is not None),
        )

    def keys(self, data_hash: str) -> dict[str, FinetuneConfig]:
        """The points of the grid by the digest of everything that a point's row depends on.

        The other points of the grid do not enter.
        """
        apart = {"grid", "finetune", "device", "checkpoints"}
        apart |= {name for name in ("gradinit", "metainit", "nio") if name != self.init}
        apart |= set() if self.init == SELECTION else {"larger"}
        settings = self.model_dump(mode="json", exclude=apart)
        common = (settings, data_hash, code_digest("flows.trials.execution"))
        return {
            digest(*common, point.model_dump(mode="json")): point
            for point in self.grid.points(self.finetune)
        }
