"""The rules by which the splits of DeepNets-1M are drawn. User-defined splits are further entries
of the same kind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from datasets.deepnets.space.architecture import MAX_STEPS, OPERATIONS
from ghn.errors import ConfigError
from ghn.settings import Settings


class SplitRules(Settings):
    """How the architectures of a split are drawn; the defaults are those of train, val, test and
    wide.

    Attributes:
        size: number of architectures.
        seed: of the split's random stream, combined with the pipeline's seed.
        n_cells: least and most cells.
        deep_from: least and most value of the drawn threshold; more cells than it make a network
            "deep".
        steps: least and most sums per cell.
        max_steps_deep: most sums per cell of a deep network; up to it a network counts as simple.
        max_parameters: more at C = 32, 10 classes and either input size is rejected.
        max_multiply_adds: more per 32-pixel image at C = 32 is rejected; None for no bound. A
            training split for a CPU sets it: a fifth of the published train split costs less than
            25 million, half of it 55 million or more.
        norm: "mixed" (none for half of the shallow, simple networks), "always" or "never" batch
            norm; or a number: the probability of batch norms in a network, of whatever depth. The
            published train split has shallow networks without norms only, bnfree has deep ones.
        preproc_plain: probability of 1x1 convolutions before a cell where neither several sums nor
            a growing width ask for them, in networks without msa.
        preproc_msa: the same with msa.
        operations: names of the operations to draw from.
        width_factor: the split is evaluated at C times this on 32-pixel images.
        width_factor_large: the same on 224-pixel images.
        disjoint_from: splits of which no architecture may be isomorphic to one of this split.
    """

    size: int = Field(gt=0)
    seed: int = 0
    n_cells: tuple[int, int] = (4, 18)
    deep_from: tuple[int, int] = (7, 10)
    steps: tuple[int, int] = (1, 4)
    max_steps_deep: int = 2
    max_parameters: int = Field(default=10**7, gt=0)
    max_multiply_adds: float | None = Field(default=None, gt=0)
    norm: Literal["mixed", "always", "never"] | Annotated[float, Field(gt=0, lt=1)] = "mixed"
    preproc_plain: float = Field(default=1.0, ge=0, le=1)
    preproc_msa: float = Field(default=0.2, ge=0, le=1)
    operations: tuple[str, ...] = OPERATIONS
    width_factor: int = 1
    width_factor_large: int = 1
    disjoint_from: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> SplitRules:
        for name in ("n_cells", "deep_from", "steps"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(
                    f"{name} must be an increasing pair of positive numbers, is {[low, high]}"
                )
        if self.steps[1] > MAX_STEPS or self.n_cells[1] > 100:
            raise ValueError(f"at most {MAX_STEPS} sums per cell and 100 cells")
        if not self.steps[0] <= self.max_steps_deep <= self.steps[1]:
            raise ValueError("max_steps_deep must lie within steps")
        if unknown := set(self.operations) - set(OPERATIONS):
            raise ValueError(f"unknown operations {sorted(unknown)}")
        if not set(self.operations) - set(OPERATIONS[:4]):
            raise ValueError("operations must contain one with parameters")
        if not set(self.operations) & set(OPERATIONS[1:4]):
            raise ValueError(
                "operations must contain one of pooling and skip_connect, for the reduction cell"
            )
        return self


EVALUATION_SPLITS = ("val", "test", "wide", "deep", "dense", "bnfree")

PUBLISHED: dict[str, SplitRules] = {
    "train": SplitRules(size=1_000_000, seed=1, disjoint_from=EVALUATION_SPLITS),
    "val": SplitRules(size=500, seed=2),
    "test": SplitRules(size=500, seed=3),
    "wide": SplitRules(size=100, seed=4, width_factor=4, width_factor_large=2),
    "deep": SplitRules(size=100, seed=5, n_cells=(10, 36), deep_from=(18, 18),
                       max_parameters=10**8),
    "dense": SplitRules(size=100, seed=6, steps=(2, 10), max_steps_deep=6, max_parameters=10**8),
    "bnfree": SplitRules(size=100, seed=7, norm="never"),
    "search": SplitRules(
        size=100_000, seed=8, n_cells=(6, 20), deep_from=(10, 10), steps=(1, 6), max_steps_deep=3,
        norm="always",
        preproc_plain=0.8, disjoint_from=EVALUATION_SPLITS,
    ),
}  # fmt: skip
"""The splits of the paper."""


def rules_of(split: str, overrides: dict[str, SplitRules] | None = None) -> SplitRules:
    """The rules of a split, from `overrides` or else the published ones.

    Raises:
        ConfigError: there is no such split.
    """
    known = {**PUBLISHED, **(overrides or {})}
    if split not in known:
        raise ConfigError(f"no rules for a split named {split!r}; known: {', '.join(known)}")
    return known[split]
