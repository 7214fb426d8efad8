"""Section `register` of params.yaml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RegisterConfig(BaseModel):
    """Section `register` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        default="ghn3", pattern=r"^[A-Za-z0-9._ -]+$", description="registered model in MLflow"
    )
    alias: str = Field(
        default="challenger",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="alias of the new version",
    )
