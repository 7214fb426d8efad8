"""A deployment whose workers die again and again is not started for ever."""

from __future__ import annotations

from uuid import uuid4

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.flow_engine import run_flow
from prefect.states import Completed, Crashed, Failed, Pending, Running, State

from flows.orchestration.crashes import MAX_CRASHES, refuse_after_crashes


@flow(name="continues")
def continues() -> None:
    """What the pipeline does first in a run that an automation has started."""
    refuse_after_crashes()


def test_after_three_crashes_in_a_row_a_restart_is_refused(server: SyncPrefectClient) -> None:
    deployment = server.create_deployment(
        flow_id=server.create_flow(continues), name=f"crashes-{uuid4().hex[:6]}"
    )

    def ends(state: State) -> None:
        run = server.create_flow_run_from_deployment(deployment, name=f"run-{state.name}")
        for step in (Pending(), Running(), state):
            server.set_flow_run_state(run.id, step, force=True)

    def restarted() -> str:
        """What becomes of a run that is started in place of one that crashed."""
        run = server.create_flow_run_from_deployment(deployment)
        run_flow(continues, flow_run=run, return_type="state")
        state = server.read_flow_run(run.id).state
        assert state is not None
        return f"{state.name}: {state.message}"

    ends(Failed())
    for _ in range(MAX_CRASHES - 1):
        ends(Crashed())
    assert restarted().startswith("Completed")
    for _ in range(MAX_CRASHES):
        ends(Crashed())
    refused = restarted()
    assert refused.startswith("Failed")
    assert "the last 3 runs crashed (run-Crashed, run-Crashed, run-Crashed)" in refused
    ends(Completed())  # started by hand, after somebody has looked
    assert restarted().startswith("Completed")
