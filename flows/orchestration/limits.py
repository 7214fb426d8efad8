"""What the servers and the flows must agree on."""

from __future__ import annotations

POOLS = ("cpu", "gpu")
"""Work pools."""

DELEGATED = "gpu"
"""Deployment (of the flow pipeline) to which other runs leave stages that need a GPU."""

TRAINING_LIMIT = "training"
"""Global concurrency limit of Prefect with a slot per GPU."""

TREE_LIMIT = "tree"
"""Global concurrency limits with one slot each begin with this: of the flow runs of all
deployments, one at a time writes the outputs of a tree.
"""

SLOT_SECONDS = 90
"""A slot of these limits is renewed while it is held; that of a machine that is gone is free again
after so long.
"""

HEARTBEAT_SECONDS = 30
"""Between two heartbeats of a flow run (PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers); the
least Prefect allows.
"""
