"""Fan-out over a Ray cluster of two nodes, also with workers and a whole node lost in the middle."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from flows.fanout import FanOut, fan_out
from ghn.errors import ConfigError

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


def on_ray(cluster, **settings) -> FanOut:
    return FanOut(backend="ray", address=cluster.address, **settings)


def work(marks: Path, x: int) -> tuple[int, str]:
    """The item and its node; the first try of each multiple of 7 kills its worker."""
    mark = marks / str(x)
    if x % 7 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return x, ray.get_runtime_context().get_node_id()


def test_two_nodes_and_killed_workers_lose_nothing(cluster, tmp_path):
    results = list(fan_out(partial(work, tmp_path), range(24), on_ray(cluster)))
    assert sorted(item for item, _ in results) == list(range(24))
    assert len({node for _, node in results}) == 2
    assert sorted(int(mark.name) for mark in tmp_path.iterdir()) == [0, 7, 14, 21]


def test_a_lost_node_loses_nothing(cluster):
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        own = ray._private.worker.global_worker.node._raylet_socket_name  # the driver would not survive its node
        victim = next(node for node in nodes if node._raylet_socket_name != own)
        results = fan_out(lambda x: time.sleep(0.2) or x, range(40), on_ray(cluster))
        collected = [next(results)]
        cluster.remove_node(victim, allow_graceful=False)
        collected += results
    finally:
        ray.shutdown()
    assert sorted(collected) == list(range(40))


def test_the_functions_own_exception_arrives(cluster):
    def refuse(x):
        raise ValueError(f"{x} is not welcome")

    with pytest.raises(ValueError, match="is not welcome"):
        list(fan_out(refuse, range(3), on_ray(cluster)))


def test_what_no_node_can_give_is_an_error(cluster):
    with pytest.raises(ConfigError, match=r"1 CPUs and 1\.0 GPUs"):
        list(fan_out(str, range(3), on_ray(cluster, gpus=1.0)))
