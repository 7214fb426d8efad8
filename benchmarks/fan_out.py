"""What fan-out costs per item: seconds that `fan_out` adds to a function that does nothing
(docs/scale.md).

    python benchmarks/fan_out.py [--items 2000] [--ray]

Local processes; with --ray also a Ray cluster of two local nodes.
"""

from __future__ import annotations

import argparse
import platform
import time

from flows.compute.fanout import FanOut, fan_out


def nothing(item: int) -> int:
    return item


def seconds_per_item(config: FanOut, items: int) -> float:
    list(fan_out(nothing, range(4), config))  # workers and imports
    started = time.perf_counter()
    count = sum(1 for _ in fan_out(nothing, range(items), config, title="dispatch"))
    assert count == items
    return (time.perf_counter() - started) / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}")
    print(
        f"local, 2 workers: {1e3 * seconds_per_item(FanOut(workers=2), options.items):.2f} ms an"
        " item"
    )
    if options.ray:
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        config = FanOut(backend="ray", address=cluster.address)
        print(
            f"Ray, 2 nodes of 1 CPU: {1e3 * seconds_per_item(config, options.items):.2f} ms an item"
        )
        cluster.shutdown()


if __name__ == "__main__":
    main()
