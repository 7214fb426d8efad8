"""What happens when a worker dies: its flow run ends, and another takes over, but not for ever."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import deployment

from flows.compute.parent import exit_with_parent
from flows.orchestration.errors import StageFailedError

MAX_CRASHES = 3
"""After so many in a row no automation starts another run."""


def refuse_after_crashes() -> None:
    """Raises `StageFailedError` if the last `MAX_CRASHES` runs of this deployment all crashed
    within a day: what takes workers down again and again is no accident.
    """
    ended = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
    identifier = UUID(str(deployment.id))
    with get_client(sync_client=True) as prefect_client:
        runs = prefect_client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                deployment_id=FlowRunFilterDeploymentId(any_=[identifier]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ended)),
            ),
            sort=FlowRunSort.END_TIME_DESC,
            limit=MAX_CRASHES,
        )
    day_ago = datetime.now(UTC) - timedelta(days=1)
    crashes = [
        run
        for run in runs
        if run.state_type == StateType.CRASHED and (run.end_time or day_ago) > day_ago
    ]
    if len(crashes) == MAX_CRASHES:
        raise StageFailedError(
            f"the last {MAX_CRASHES} runs crashed ({', '.join(run.name for run in crashes)}); look"
            " at their logs and the machine's memory, then start a run by hand",
            False,
        )


def end_with_worker() -> None:
    """Has this flow run end, as Crashed, when the worker dies that started it: nobody could cancel
    it any more.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:
        exit_with_parent()
