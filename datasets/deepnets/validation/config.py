"""Section `validate` of params.yaml: how thoroughly splits are checked."""

from __future__ import annotations

from pydantic import Field

from ghn.settings import Once, Settings


class ValidateConfig(Settings):
    """Section `validate` of params.yaml.

    Attributes:
        splits: which; None for all that are there.
        sample: graphs per split whose degree and average path are measured.
        max_duplicates: largest tolerated fraction of an imported split's architectures that are
            isomorphic to an earlier one; in a generated split there may be none.
        block: graphs that a worker checks at a time.
    """

    splits: Once[str] | None = Field(
        default=None, min_length=1, description="null: all that are there"
    )
    sample: int = Field(
        default=1000, ge=1, description="graphs per split whose degree and path are measured"
    )
    max_duplicates: float = Field(
        default=0.05, ge=0, le=1, description="imported splits: tolerated isomorphic repetitions"
    )
    block: int = Field(default=5000, ge=1, description="graphs that a worker checks at a time")
