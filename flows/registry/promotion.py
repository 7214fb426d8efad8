"""Which version is @champion: decision, promotion, roll-back.

A version becomes @champion only if it is better than the present one by more than the noise, that
of architectures and that of images (`flows.registry.comparison`), on images that no published
number of it rests on (`flows.registry.evaluation`). It stays a challenger if it was evaluated under
other conditions, if more architectures failed, or if it is worse on torchvision's networks. The
first champion is compared with random parameters in the same way. Decision, numbers and reason are
tags of the version; the version before is a tag too, so roll-back needs no memory of ours. What
somebody has decided, by a roll-back or a refusal, only somebody changes.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flows.registry.comparison import MIN_ARCHITECTURES, MIN_IMAGES, Comparison
from flows.registry.evaluation import TORCHVISION, Evaluation, evaluation_of
from flows.registry.lookup import (
    CHALLENGER,
    CHAMPION,
    RegistryError,
    by_alias,
    find,
    numbered,
    set_tags,
)
from flows.tracking.client import client
from flows.tracking.events import champion_changed
from flows.words import now

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MAX_FAILED = 0.05
"""Share of the architectures that may have failed where there is no champion to compare with."""


BY_PEOPLE = ("rolled back", "refused")
"""Values of the tag `promotion.decision` that somebody has set: only somebody lifts them."""


@dataclass(frozen=True)
class Decision:
    """What was decided about a version, and why; `tags()` is how the registry remembers it.

    Attributes:
        promoted: whether the version became the champion by it.
        version: of the challenger.
        against: what it was compared with, in words.
        comparison: what decided; None if nothing was compared.
        reason: in words.
        unchanged: whether the version was the champion before, so that nothing was to decide.
    """

    promoted: bool
    version: str
    against: str
    comparison: Comparison | None
    reason: str
    unchanged: bool = False

    @property
    def champion(self) -> bool:
        """Whether the version is the champion now."""
        return self.promoted or self.unchanged

    def tags(self) -> dict[str, str]:
        """As tags of the version."""
        tags = {
            "promotion.decision": "promoted" if self.promoted else "kept as challenger",
            "promotion.against": self.against,
            "promotion.reason": self.reason,
            "promotion.metric": "mean accuracy on the deciding half of the images, untrained",
            "promotion.time": now(),
        }
        if (c := self.comparison) is not None:
            tags |= {
                "promotion.challenger": f"{c.challenger:.5f}",
                "promotion.champion": f"{c.champion:.5f}",
                "promotion.difference": f"{c.difference:+.5f}",
                "promotion.noise": f"{c.noise:.5f}",
                "promotion.architectures": str(c.architectures),
                "promotion.images": str(c.images),
            }
        return tags


def decide(
    challenger: Evaluation, champion: Evaluation | None, version: str, champion_version: str | None
) -> Decision:
    """Whether `version` becomes the champion; `champion` is None if there is none yet."""
    against = "random parameters" if champion is None else f"version {champion_version}"
    if champion is not None and (differences := unlike(challenger, champion)):
        reason = (
            f"not comparable with {against}: {differences}; `ghn registry promote --force` promotes"
            " it all the same"
        )
        return Decision(False, version, against, None, reason)
    compared = challenger.against(champion)
    c, known = compared["all"], compared[TORCHVISION]
    told = (
        f"{c.challenger:.4f} against {c.champion:.4f} of {against}: difference {c.difference:+.4f}"
    )
    measure = f"the noise {c.noise:.4f} over {c.architectures} architectures and {c.images} images"
    allowed = MAX_FAILED * len(challenger.architectures) if champion is None else champion.failed
    if challenger.failed > allowed:
        verdict = (
            f"{challenger.failed} of {len(challenger.architectures)} architectures failed, at most"
            f" {int(allowed)} may"
        )
    elif not c.enough:
        verdict = (
            f"only {c.architectures} architectures and {c.images} images to decide on, at least"
            f" {MIN_ARCHITECTURES} and {MIN_IMAGES} are needed"
        )
    elif known.worse:
        verdict = (
            f"worse on torchvision's networks: {known.challenger:.4f} against {known.champion:.4f},"
            f" more than the noise {known.noise:.4f}"
        )
    elif c.better:
        return Decision(True, version, against, c, f"{told} exceeds {measure}")
    else:
        verdict = f"{told} does not exceed {measure}"
    return Decision(False, version, against, c, verdict)


def unlike(one: Evaluation, other: Evaluation) -> str:
    """How the conditions of two evaluations differ; empty if they can be compared."""
    keys = sorted({*one.conditions, *other.conditions})
    pairs = [(key, one.conditions.get(key), other.conditions.get(key)) for key in keys]
    differences = [f"{key} {a} instead of {b}" for key, a, b in pairs if a != b]
    if one.architectures != other.architectures:
        differences.append(
            f"{len(one.architectures)} architectures instead of {len(other.architectures)},"
            f" {len({*one.architectures} & {*other.architectures})} in common"
        )
    return ", ".join(differences)


def promote(
    name: str,
    version: str | None = None,
    force: bool = False,
    mlflow_client: MlflowClient | None = None,
    automatic: bool = False,
) -> Decision:
    """Makes a version (by default @challenger) the champion if it is better; writes the decision as
    tags either way.

    Args:
        name: registered model.
        version: number; by default that of alias challenger.
        force: promote whatever the comparison says, or without one (the reason says so).
        mlflow_client: where; by default the present tracking store.
        automatic: nobody asked for it, so a version that somebody rolled back or refused is left
            alone, its tags too.

    Raises:
        RegistryError: there is no such version, or it has no evaluation.
    """
    mlflow_client = mlflow_client or client(create=False)
    while True:
        candidate, champion = candidates(mlflow_client, name, version)
        version = str(candidate.version)
        standing = already_champion(candidate, champion)
        if standing is None and automatic:
            standing = left_to_people(candidate)
        if standing is not None:
            return standing
        decision = judge(mlflow_client, candidate, champion, force)
        if force and not decision.promoted:
            reason = f"forced by {getpass.getuser()}, although: {decision.reason}"
            decision = replace(decision, promoted=True, reason=reason)
        if _settled(mlflow_client, name, decision, champion):
            break
    set_tags(mlflow_client, name, version, decision.tags())
    if decision.promoted:
        champion_changed(name, version, decision.reason)
    return decision


def _settled(
    mlflow_client: MlflowClient, name: str, decision: Decision, judged: ModelVersion | None
) -> bool:
    """Moves @champion if the version is promoted; False if somebody else has moved it since the
    decision was made against `judged`, so that it has to be made again.

    MLflow cannot set an alias on the condition that it is what it was, so a window remains: of two
    promotions that both look before either sets, and of which the first looks again before the
    second sets, the second stays, though it was not compared with the first.
    """

    def champion() -> str | None:
        found = by_alias(name, CHAMPION, mlflow_client)
        return str(found.version) if found else None

    before = str(judged.version) if judged else None
    if champion() != before:
        return False
    if not decision.promoted:
        return True
    number = decision.version
    if before is not None:  # first, so that there is a way back as soon as it is the champion
        mlflow_client.set_model_version_tag(name, number, "promotion.previous", before)
    mlflow_client.set_registered_model_alias(name, CHAMPION, number)
    return champion() == number


def candidates(
    mlflow_client: MlflowClient, name: str, version: str | None
) -> tuple[ModelVersion, ModelVersion | None]:
    """The version to be decided about (a number or an alias; by default @challenger), and the
    champion if there is one.

    Raises:
        RegistryError: there is no such version.
    """
    candidate = find(name, version or f"@{CHALLENGER}", mlflow_client)
    return candidate, by_alias(name, CHAMPION, mlflow_client)


def already_champion(candidate: ModelVersion, champion: ModelVersion | None) -> Decision | None:
    """The decision where there is nothing to decide."""
    number = str(candidate.version)
    if champion is None or str(champion.version) != number:
        return None
    reason = "it is the champion already"
    return Decision(False, number, f"version {number}", None, reason, unchanged=True)


def left_to_people(candidate: ModelVersion) -> Decision | None:
    """The decision where somebody has rolled the version back or refused it: it stands."""
    tags, number = candidate.tags, str(candidate.version)
    if (said := tags.get("promotion.decision")) not in BY_PEOPLE:
        return None
    why = tags.get("promotion.rollback_reason" if said == "rolled back" else "approval.comment")
    reason = (
        f"it was {said}{f' ({why})' if why else ''}, which stands until `ghn registry promote"
        f" {number} {candidate.name}` or an approval lifts it"
    )
    return Decision(False, number, tags.get("promotion.against", ""), None, reason)


def judge(
    mlflow_client: MlflowClient,
    candidate: ModelVersion,
    champion: ModelVersion | None,
    force: bool = False,
) -> Decision:
    """`decide` about versions of the registry; one without an evaluation can only be forced."""
    number, against = str(candidate.version), str(champion.version) if champion else None
    try:
        own = evaluation_of(candidate, mlflow_client)
        other = evaluation_of(champion, mlflow_client) if champion else None
    except RegistryError as error:
        if not force:
            raise
        against = f"version {against}" if against else "nothing"
        return Decision(False, number, against, None, str(error))
    return decide(own, other, number, against)


def rollback(name: str, reason: str) -> tuple[str, str]:
    """Points @champion back to the version before, past those that were rolled back themselves;
    returns the numbers of the versions (from, to).

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    mlflow_client = client(create=False)
    champion = by_alias(name, CHAMPION, mlflow_client)
    if champion is None:
        raise RegistryError(f"model {name} has no version @{CHAMPION}")
    previous = _before(mlflow_client, name, champion)
    if previous is None:
        raise RegistryError(
            f"version {champion.version} of {name} is the first champion, or all before it were"
            " rolled back: there is none to go back to"
        )
    mlflow_client.set_registered_model_alias(name, CHAMPION, previous)
    said = {"promotion.decision": "rolled back", "promotion.rollback_reason": reason}
    set_tags(mlflow_client, name, str(champion.version), said)
    champion_changed(name, previous, f"rolled back from version {champion.version}: {reason}")
    return str(champion.version), previous


def _before(mlflow_client: MlflowClient, name: str, champion: ModelVersion) -> str | None:
    """The number of the last champion before this one that nobody has rolled back."""
    version, passed = champion, {str(champion.version)}
    while (number := version.tags.get("promotion.previous")) is not None and number not in passed:
        version = numbered(mlflow_client, name, number)
        if version.tags.get("promotion.decision") != "rolled back":
            return number
        passed.add(number)
    return None
