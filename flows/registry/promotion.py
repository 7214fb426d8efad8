"""Which version is @champion: decision, promotion, roll-back.

A version becomes @champion only if it is better than the present one by more than the noise, paired
over architectures: both were evaluated on the same architectures with the same images, so the
difference is taken per architecture, and its mean must exceed `Z` standard errors of that mean. The
first champion is compared with random initialisation in the same way. Decision, both numbers and
reason are tags of the version; the version before is a tag too, so roll-back needs no memory of
ours.
"""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flows.orchestration.events import champion_changed
from flows.registry.evaluation import (
    METRIC,
    MIN_ARCHITECTURES,
    Comparison,
    Evaluation,
    Z,
    compare,
    evaluation,
)
from flows.registry.lookup import CHALLENGER, CHAMPION, RegistryError, by_alias, numbered
from flows.tracking.client import client

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, and why; `tags()` is how the registry remembers it."""

    promoted: bool
    version: str
    against: str
    comparison: Comparison | None
    reason: str

    def tags(self) -> dict[str, str]:
        """As tags of the version."""
        tags = {
            "promotion.decision": "promoted" if self.promoted else "kept as challenger",
            "promotion.against": self.against,
            "promotion.reason": self.reason,
            "promotion.metric": f"mean {METRIC}, paired over architectures",
            "promotion.time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if (c := self.comparison) is not None:
            tags |= {
                "promotion.challenger": f"{c.challenger:.5f}",
                "promotion.champion": f"{c.champion:.5f}",
                "promotion.difference": f"{c.difference:+.5f}",
                "promotion.noise": f"{c.noise:.5f}",
                "promotion.architectures": str(c.architectures),
            }
        return tags


def decide(
    challenger: Evaluation, champion: Evaluation | None, version: str, champion_version: str | None
) -> Decision:
    """Whether `version` becomes the champion; `champion` is None if there is none yet."""
    if champion is None:
        comparison = compare(challenger.accuracies, challenger.random)
        against = "random initialisation"
    elif champion.data != challenger.data:
        reason = (
            f"not comparable: evaluated on other data ({challenger.data}) than version"
            f" {champion_version} ({champion.data}); `ghn registry promote --force` promotes it all"
            " the same"
        )
        return Decision(False, version, f"version {champion_version}", None, reason)
    else:
        comparison = compare(challenger.accuracies, champion.accuracies)
        against = f"version {champion_version}"
    c = comparison
    if c.architectures < MIN_ARCHITECTURES:
        verdict = (
            f"only {c.architectures} architectures in common, at least {MIN_ARCHITECTURES} are"
            " needed"
        )
    else:
        verdict = (
            f"{c.challenger:.4f} against {c.champion:.4f} of {against}: difference"
            f" {c.difference:+.4f} {'exceeds' if c.better else 'does not exceed'} the noise"
            f" {c.noise:.4f} ({Z} standard errors over {c.architectures} architectures)"
        )
    return Decision(c.better, version, against, c, verdict)


def promote(
    name: str,
    version: str | None = None,
    force: bool = False,
    mlflow_client: MlflowClient | None = None,
) -> Decision:
    """Makes a version (by default @challenger) the champion if it is better; writes the decision as
    tags either way.

    Args:
        name: registered model.
        version: number; by default that of alias challenger.
        force: promote whatever the comparison says, or without one (the reason says so).
        mlflow_client: where; by default the present tracking store.

    Raises:
        RegistryError: there is no such version, or it has no evaluation.
    """
    mlflow_client = mlflow_client or client()
    candidate = (
        numbered(mlflow_client, name, version)
        if version
        else by_alias(name, CHALLENGER, mlflow_client)
    )
    if candidate is None:
        raise RegistryError(
            f"model {name} has no version @{CHALLENGER}; `ghn registry list {name}` shows what"
            " there is"
        )
    champion = by_alias(name, CHAMPION, mlflow_client)
    number = str(candidate.version)
    if champion is not None and str(champion.version) == number:
        return Decision(False, number, f"version {number}", None, "it is the champion already")
    against = str(champion.version) if champion else None
    try:
        other = evaluation(champion, mlflow_client) if champion else None
        decision = decide(evaluation(candidate, mlflow_client), other, number, against)
    except RegistryError as error:
        if not force:
            raise
        decision = Decision(
            False, number, f"version {against}" if against else "nothing", None, str(error)
        )
    if force and not decision.promoted:
        reason = f"forced by {getpass.getuser()}, although: {decision.reason}"
        decision = replace(decision, promoted=True, reason=reason)
    tags = decision.tags()
    if decision.promoted and champion is not None:
        tags["promotion.previous"] = str(champion.version)
    for key, value in tags.items():
        mlflow_client.set_model_version_tag(name, number, key, value)
    if decision.promoted:
        mlflow_client.set_registered_model_alias(name, CHAMPION, number)
        champion_changed(name, number, decision.reason)
    return decision


def rollback(name: str, reason: str, mlflow_client: MlflowClient | None = None) -> tuple[str, str]:
    """Points @champion back to the version before; returns the numbers of the versions (from, to).

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    mlflow_client = mlflow_client or client()
    champion = by_alias(name, CHAMPION, mlflow_client)
    if champion is None:
        raise RegistryError(f"model {name} has no version @{CHAMPION}")
    previous = champion.tags.get("promotion.previous")
    if previous is None:
        raise RegistryError(
            f"version {champion.version} of {name} is the first champion: there is none to go"
            " back to"
        )
    numbered(mlflow_client, name, previous)
    mlflow_client.set_registered_model_alias(name, CHAMPION, previous)
    mlflow_client.set_model_version_tag(
        name, str(champion.version), "promotion.decision", "rolled back"
    )
    mlflow_client.set_model_version_tag(
        name, str(champion.version), "promotion.rollback_reason", reason
    )
    champion_changed(name, previous, f"rolled back from version {champion.version}: {reason}")
    return str(champion.version), previous
