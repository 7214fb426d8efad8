"""What the servers and the flows must agree on."""

from __future__ import annotations

POOLS = ("cpu", "gpu")
"""Work pools."""

TRAINING_LIMIT = "training"
"""Global concurrency limit of Prefect with a slot per GPU."""

HEARTBEAT_SECONDS = 30
"""Between two heartbeats of a flow run (PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers); the
least Prefect allows.
"""
