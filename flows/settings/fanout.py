"""Section `fanout` of params.yaml: where the items of a stage are worked on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ghn.settings import Settings


class FanOut(Settings):
    """Where the items of a stage are worked on (the section `fanout` of params.yaml)."""

    backend: Literal["local", "ray"] = Field(
        default="local", description="this machine, or a Ray cluster"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="items at once; by default the cores of this machine, or what the cluster has",
    )
    address: str | None = Field(
        default=None,
        description=(
            "of the Ray cluster (auto, host:6379, ray://...); default: RAY_ADDRESS, or a new one"
        ),
    )
    threads: int = Field(
        default=1,
        ge=1,
        description="threads of one worker (OpenMP, PyTorch); Ray: CPUs of one item",
    )
    gpus: float | None = Field(
        default=None,
        ge=0.0,
        description=(
            "GPUs of one item: 2, 1, or a part such as 0.25, so that four items share one; null:"
            " one where there are GPUs"
        ),
    )
    retries: int = Field(default=2, ge=0, description="further tries of an item whose worker died")
    max_error_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description=(
            "share of a stage's items that may fail and become rows with an error; beyond it the"
            " stage fails and writes nothing"
        ),
    )
