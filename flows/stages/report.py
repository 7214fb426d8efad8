"""Stage report: one self-contained page with every result next to the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking import StageRun


class ReportConfig(BaseModel):
    """Section `report` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(default="Parameters predicted by GHN-3", min_length=1, description="heading of the page")


def run(params: Params, stage: StageRun) -> None:
    """Writes reports/index.html."""
