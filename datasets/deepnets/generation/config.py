"""Section `generate` of params.yaml: which splits are drawn, by which rules."""

from __future__ import annotations

import hashlib
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from datasets.deepnets.space.rules import PUBLISHED, SplitRules
from ghn.settings import Settings


class GenerateConfig(Settings):
    """Section `generate` of params.yaml.

    Attributes:
        shard_size: architectures per shard: what a worker makes at a time and at most loses when it
            is killed.
        splits: what differs from the published rules by split (`rules.SplitRules`); other names
            define new splits.
    """

    shard_size: int = Field(
        default=5000, ge=1, le=100_000, description="architectures a worker makes at a time"
    )
    splits: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="per split what differs from its published rules; new names are new splits",
    )

    @field_validator("splits")
    @classmethod
    def _check(cls, splits: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, fields in splits.items():
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(
                    f"{name!r} cannot be the name of a split: letters, digits, - and _ only"
                )
            _merged(name, fields)
        _check_disjoint(_all_rules(splits))
        return splits

    def rules(self) -> dict[str, SplitRules]:
        """The rules of all splits, published and user-defined."""
        return _all_rules(self.splits)


def _all_rules(splits: dict[str, dict[str, Any]]) -> dict[str, SplitRules]:
    return {**PUBLISHED, **{name: _merged(name, fields) for name, fields in splits.items()}}


def _check_disjoint(rules: dict[str, SplitRules]) -> None:
    """Refuses names that are no splits, and splits that wait for each other, or for themselves."""
    for name, its in rules.items():
        if unknown := sorted(set(its.disjoint_from) - rules.keys()):
            raise ValueError(
                f"disjoint_from of split {name!r} names {unknown[0]!r}, which is no split; use some"
                f" of {', '.join(rules)}"
            )
    try:
        TopologicalSorter({name: its.disjoint_from for name, its in rules.items()}).prepare()
    except CycleError as error:
        circle = " from ".join(reversed(error.args[1]))
        raise ValueError(
            f"disjoint_from goes in a circle ({circle}); a split can only be disjoint from"
            " splits that can be drawn before it: take one of these names out"
        ) from None


def _merged(name: str, fields: dict[str, Any]) -> SplitRules:
    base = PUBLISHED[name].model_dump() if name in PUBLISHED else {"seed": _seed_of(name)}
    try:
        return SplitRules.model_validate({**base, **fields})
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            error.title, [_placed(name, fields, problem) for problem in error.errors()]
        ) from None


def _placed(name: str, fields: dict[str, Any], problem: ErrorDetails) -> InitErrorDetails:
    """A problem of the rules of split `name` as one of all splits."""
    kind: str | PydanticCustomError = problem["type"]
    if kind == "extra_forbidden":
        allowed = ", ".join(SplitRules.model_fields)
        about = {"said": problem["msg"], "allowed": allowed}
        kind = PydanticCustomError("unknown_rule", "{said}; allowed: {allowed}", about)
    return {
        "type": kind,
        "loc": (name, *problem["loc"]),
        "input": problem["input"] if problem["loc"] else fields,
        "ctx": problem.get("ctx", {}),
    }


def _seed_of(name: str) -> int:
    """A stream of its own for a user-defined split."""
    return 1000 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
