"""Automations of the server that are no deployment's trigger (those are in prefect.yaml).

    python -m flows.orchestration.automations  # on the server at PREFECT_API_URL

`ghn stack deploy` does this too. Messages (`flows.orchestration.notifications`) are among them.

A flow run whose machine is gone (no power, evicted, `kill -9` of everything) can report nothing
more, so nobody would ever know. Flow runs send a heartbeat every `HEARTBEAT_SECONDS`; one that
misses `MISSED` of them is marked as Crashed, and what waits for that (the trigger of
pipeline/nightly) goes on.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.orchestration import notifications
from flows.orchestration.limits import HEARTBEAT_SECONDS

MISSED = 3
LOST_RUNS = "ghn-mark-lost-runs-as-crashed"


def lost_runs() -> AutomationCore:
    """Marks a flow run as Crashed that sends no heartbeat and neither ends nor waits for somebody:
    one that is suspended, as by an approval, has no process that could send any.
    """
    silent = ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")
    return AutomationCore(
        name=LOST_RUNS,
        description="A flow run that sends no heartbeat any more is marked as Crashed.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={f"prefect.flow-run.{name}" for name in ("heartbeat", *silent)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=MISSED * HEARTBEAT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no heartbeat for {MISSED * HEARTBEAT_SECONDS} s: its machine is gone",
                force=False,
            )
        ],
    )


def apply(client: SyncPrefectClient) -> None:
    """Creates the automations on the present server, or brings them up to date.

    Without an address for notifications those that are there stay: a deployment from another shell
    silences nothing.
    """
    for automation in (lost_runs(), *notifications.automations()):
        if found := client.read_automations_by_name(automation.name):
            client.update_automation(found[0].id, automation)
        else:
            client.create_automation(automation)


if __name__ == "__main__":
    with get_client(sync_client=True) as of_environment:
        apply(of_environment)
