"""Fan-out over a Ray cluster of two nodes, also with workers and a whole node lost in the
middle.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from datasets.images import load
from flows.compute.fanout import FanOut, fan_out
from flows.networks.targets import Target, target
from flows.rows.schema import Row
from flows.settings.evaluate import EvaluateConfig
from flows.stages.evaluate import Evaluate
from ghn.errors import ConfigError
from ghn.models import GHN, GHNConfig

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


@pytest.fixture(autouse=True)
def no_collection_elsewhere():
    """A thread that an earlier test left behind (Prefect's) may collect garbage while a test leaves
    Ray; references to objects among it make Ray end the whole process then.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


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
        # the driver would not survive its node
        own = ray._private.worker.global_worker.node._raylet_socket_name
        victim = next(node for node in nodes if node._raylet_socket_name != own)
        results = fan_out(lambda x: time.sleep(0.2) or x, range(40), on_ray(cluster))
        collected = [next(results)]
        cluster.remove_node(victim, allow_graceful=False)
        collected += results
    finally:
        ray.shutdown()
    assert sorted(collected) == list(range(40))


def held_by(_item: int) -> tuple[int, float]:
    """This process and its memory in MB, before it frees 500 MB that the C library would keep."""
    before = psutil.Process().memory_info().rss / 1e6
    pieces = [bytes(50_000) for _ in range(10_000)]
    _KEPT.append(bytes(50_000))
    del pieces
    return os.getpid(), before


_KEPT: list[bytes] = []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of glibc alone")
def test_what_an_item_has_freed_goes_back_to_the_system(cluster):
    held: dict[int, list[float]] = defaultdict(list)
    for pid, mb in fan_out(held_by, range(6), on_ray(cluster, workers=1)):
        held[pid].append(mb)
    often = [mbs for mbs in held.values() if len(mbs) > 1]
    assert often  # Ray has used a worker again
    assert max(max(mbs) - min(mbs) for mbs in often) < 300


def test_the_functions_own_exception_arrives(cluster):
    def refuse(x):
        raise ValueError(f"{x} is not welcome")

    with pytest.raises(ValueError, match="is not welcome"):
        list(fan_out(refuse, range(3), on_ray(cluster)))


def test_what_no_node_can_give_is_an_error(cluster):
    with pytest.raises(ConfigError, match=r"1 CPUs and 1\.0 GPUs"):
        list(fan_out(str, range(3), on_ray(cluster, gpus=1.0)))


class EvaluateAndDie:
    """Evaluates for real, but its worker is killed at the first sight of one architecture."""

    def __init__(self, evaluate: Callable[[Target], Row], mark: Path) -> None:
        self.evaluate, self.mark = evaluate, mark

    def __call__(self, item: Target) -> tuple[str, Row]:
        if item.id == "resnet18" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        row = self.evaluate(item)
        return item.id, {key: value for key, value in row.items() if key != "seconds"}


@pytest.mark.slow
def test_an_evaluation_gives_the_same_rows_as_locally_also_with_a_killed_worker(cluster, tmp_path):
    torch.manual_seed(0)
    hypernetwork = GHN(
        GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_kernel=11)
    ).eval()
    images = load("digits", split="test", image_size=32).subset(range(32))
    networks = [
        target(name) for name in ("resnet18", "squeezenet1_0", "squeezenet1_1", "mnasnet0_5")
    ]
    evaluate = Evaluate(hypernetwork, images, images, EvaluateConfig(batch_size=16), 1, "cpu")
    # that mark exists
    local = dict(fan_out(EvaluateAndDie(evaluate, tmp_path), networks, FanOut(workers=1)))
    mark = tmp_path / "killed"
    ray_rows = dict(fan_out(EvaluateAndDie(evaluate, mark), networks, on_ray(cluster)))
    assert mark.exists()
    assert ray_rows == local
    assert local.keys() == {"resnet18", "squeezenet1_0", "squeezenet1_1", "mnasnet0_5"}
