"""Section `register` of params.yaml."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from ghn.settings import Settings


class RegisterConfig(Settings):
    """Section `register` of params.yaml."""

    name: str = Field(
        default="ghn3",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_ -]*$",  # what MLflow takes for logged models too
        description="registered model in MLflow",
    )
    alias: str = Field(
        default="challenger",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="alias of the new version",
    )

    @field_validator("alias")
    @classmethod
    def _is_free(cls, alias: str) -> str:
        if alias.lower() == "champion":
            raise ValueError("the comparison alone makes a champion; take another, as challenger")
        if re.fullmatch(r"latest|v\d+", alias.lower()):
            raise ValueError("reserved by MLflow, as latest and v<number> are; take another")
        return alias
