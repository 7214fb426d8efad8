"""Messages about what needs somebody: runs that failed, crashed, ran out of time or wait for an
approval, and a champion that drifted.

They go to the address in `GHN_NOTIFY_URL`, as JSON with a `text`: what the incoming webhooks of
Slack, Mattermost, Rocket.Chat and Google Chat take (Discord's too, with `/slack` at the end). The
address is kept on the server as a secret of a block, so it is in no file of the tree.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.types import SecretDict

from flows.orchestration.limits import DELEGATED
from flows.tracking.events import CHAMPION_DRIFTED
from ghn.errors import ConfigError

ADDRESS = "GHN_NOTIFY_URL"
BLOCK = "ghn-notifications"
STATES = ("Failed", "Crashed", "TimedOut", "Suspended")
"""States of a flow run that somebody has to know of; it is suspended to wait for an approval."""


def automations() -> list[AutomationCore]:
    """The automations that send messages, with the block saved on the present server; none
    without an address.

    Raises:
        ConfigError: the address is no URL.
    """
    address = os.environ.get(ADDRESS)
    if not address:
        return []
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"{ADDRESS} is no address of a webhook: it begins with https://")
    block = CustomWebhookNotificationBlock(
        name=BLOCK,
        url="{{ address }}",
        json_data={"text": "*{{ subject }}*\n{{ body }}"},
        headers=None,
        cookies=None,
        secrets=SecretDict({"address": address}),
    )
    saved = UUID(str(block.save(BLOCK, overwrite=True)))
    return [_runs(saved), _drift(saved)]


def _runs(block: UUID) -> AutomationCore:
    """Of runs of deployments; of one that another run waits for, that other tells."""
    return AutomationCore(
        name="ghn-tell-of-runs",
        description="Tells of flow runs that failed, crashed or wait for an approval.",
        trigger=_on(
            [f"prefect.flow-run.{state}" for state in STATES],
            "prefect.flow-run.*",
            {"prefect.resource.role": "deployment", "prefect.resource.name": f"!{DELEGATED}"},
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow.name }}/{{ deployment.name }} {{ flow_run.state.name|lower }}",
                body="{{ flow_run.name }}: {{ flow_run.state.message }}\n"
                "{{ flow_run|ui_url or '' }}",
            )
        ],
    )


def _drift(block: UUID) -> AutomationCore:
    return AutomationCore(
        name="ghn-tell-of-drift",
        description="Tells of a champion that is not worth what it was.",
        trigger=_on([CHAMPION_DRIFTED], "ghn.model.*"),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ event.payload.model }} version {{ event.payload.version }} drifted",
                body="Its accuracy has changed by {{ event.payload.difference }} since it was"
                " registered, which is more than noise.",
            )
        ],
    )


def _on(
    events: Sequence[str], resource: str, related: dict[str, str | list[str]] | None = None
) -> EventTrigger:
    """Each of these events of a resource."""
    return EventTrigger(
        expect=set(events),
        match=ResourceSpecification({"prefect.resource.id": resource}),
        match_related=ResourceSpecification(related or {}),
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )
