"""Section `report` of params.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ReportConfig(BaseModel):
    """Section `report` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field(
        default="Parameters predicted by GHN-3", min_length=1, description="heading of the page"
    )
    bins: int = Field(default=25, ge=5, le=100, description="bins of the accuracy histograms")
