"""Work pools, their workers and the limits of a Prefect server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.workers.process import ProcessWorker


@contextmanager
def server(url: str) -> Iterator[SyncPrefectClient]:
    """A client of the server at `url` (its `/api`)."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def create(url: str, pools: Mapping[str, int], limits: Mapping[str, int]) -> None:
    """Creates or updates work pools of processes, with how many flow runs each may have at once,
    and global concurrency limits.
    """
    template = ProcessWorker.get_default_base_job_template()
    with server(url) as client:
        for pool, limit in pools.items():
            create = WorkPoolCreate(
                name=pool, type="process", base_job_template=template, concurrency_limit=limit
            )
            client.create_work_pool(create, overwrite=True)
        for name, limit in limits.items():
            client.upsert_global_concurrency_limit_by_name(name, limit)


def polls(url: str, pool: str, worker: str, since: datetime) -> bool:
    """Whether a worker has told the server since a time that it takes work from its pool."""
    with server(url) as client:
        try:
            workers = client.read_workers_for_work_pool(pool)
        except ObjectNotFound:
            return False
    return any(
        found.name == worker
        and found.last_heartbeat_time is not None
        and found.last_heartbeat_time >= since
        for found in workers
    )
