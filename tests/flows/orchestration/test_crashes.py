"""A deployment whose workers die again and again is not started for ever."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Completed, Crashed, Failed, Pending, Running, State

from flows.orchestration import crashes
from flows.orchestration.crashes import MAX_CRASHES, refuse_after_crashes
from flows.orchestration.errors import StageFailedError
from flows.orchestration.pipeline import pipeline


def test_after_three_crashes_in_a_row_a_restart_is_refused(
    server: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = server.create_flow(pipeline)
    deployment = server.create_deployment(flow_id=flow, name=f"crashes-{uuid4().hex[:6]}")
    monkeypatch.setattr(crashes, "flow_run", SimpleNamespace(deployment_id=str(deployment)))

    def ends(state: State) -> None:
        run = server.create_flow_run_from_deployment(deployment, name=f"run-{state.name}")
        for step in (Pending(), Running(), state):
            server.set_flow_run_state(run.id, step, force=True)

    ends(Failed())
    for _ in range(MAX_CRASHES - 1):
        ends(Crashed())
    refuse_after_crashes()
    ends(Crashed())
    with pytest.raises(StageFailedError, match="the last 3 runs crashed"):
        refuse_after_crashes()
    ends(Completed())  # started by hand, after somebody has looked
    refuse_after_crashes()
