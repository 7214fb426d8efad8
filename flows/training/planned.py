"""Meta-batches with the plan of what is decoded for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from datasets.deepnets import MetaBatch

if TYPE_CHECKING:
    from ghn.models import GHNConfig


class Planned(Dataset[MetaBatch]):
    """Those of another data set, planned for a hypernetwork where they are made: in the loader's
    workers, if it has any.
    """

    def __init__(self, batches: Dataset[MetaBatch], config: GHNConfig) -> None:
        self.batches, self.config = batches, config

    def __getitem__(self, step: int) -> MetaBatch:
        batch = self.batches[step]
        return replace(batch, graphs=batch.graphs.planned_for(self.config))
