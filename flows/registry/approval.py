"""A person between a better version and the alias @champion.

Where `GHN_HOLD_PROMOTION` is set, a version that is registered waits: nothing is decided about it,
and an event says so. `proposal` is what would be decided. Somebody then decides by `approve` or
`refuse`, in Prefect's form (`flows.orchestration.approval`) or, without Prefect, by `ghn registry
promote`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.registry.lookup import set_tags
from flows.registry.promotion import (
    Decision,
    already_champion,
    candidates,
    judge,
    left_to_people,
    promote,
)
from flows.tracking.client import client
from flows.tracking.events import challenger_waits
from flows.words import now

if TYPE_CHECKING:
    from mlflow import MlflowClient

WAITS = "waits for approval"
"""Value of the tag `promotion.decision` meanwhile."""


def hold(mlflow_client: MlflowClient, name: str, number: str) -> None:
    """Leaves a version to somebody's decision, unless it is the champion already or somebody has
    decided about it.
    """
    candidate, champion = candidates(mlflow_client, name, number)
    if already_champion(candidate, champion) is not None:
        return
    if (decided := left_to_people(candidate)) is not None:
        print(f"{name} version {number} stays a challenger: {decided.reason}")
        return
    mlflow_client.set_model_version_tag(name, number, "promotion.decision", WAITS)
    challenger_waits(name, number)
    print(
        f"{name} version {number} waits for an approval: `ghn registry promote {number} {name}`"
        " decides, or the run of promote/approval in Prefect"
    )


def proposal(name: str, version: str | None) -> Decision:
    """What `flows.registry.promotion.promote` would decide about a version; changes nothing.

    Args:
        name: registered model.
        version: number; None for that of alias challenger.

    Raises:
        RegistryError: there is no such version, or it has no evaluation.
    """
    mlflow_client = client(create=False)
    candidate, champion = candidates(mlflow_client, name, version)
    standing = already_champion(candidate, champion)
    return standing or judge(mlflow_client, candidate, champion)


def approve(name: str, number: str, by: str, reason: str) -> Decision:
    """Makes a version the champion if it is still better than what is the champion by now; notes
    who approved of it.
    """
    mlflow_client = client(create=False)
    decision = promote(name, number, mlflow_client=mlflow_client)
    _note(mlflow_client, name, number, "approved", by, reason)
    return decision


def refuse(name: str, number: str, by: str, reason: str) -> Decision:
    """Keeps a version a challenger, if it has not become the champion meanwhile; notes who wanted
    that, and why.
    """
    mlflow_client = client(create=False)
    candidate, champion = candidates(mlflow_client, name, number)
    decision = already_champion(candidate, champion)
    if decision is None:
        mlflow_client.set_model_version_tag(name, number, "promotion.decision", "refused")
        against = candidate.tags.get("promotion.against", "")
        decision = Decision(False, number, against, None, f"{by} refused")
    _note(mlflow_client, name, number, "refused", by, reason)
    return decision


def _note(
    mlflow_client: MlflowClient, name: str, number: str, answer: str, by: str, comment: str
) -> None:
    said = {"answer": answer, "by": by, "comment": comment, "time": now()}
    tags = {f"approval.{key}": value for key, value in said.items()}
    set_tags(mlflow_client, name, number, tags)
