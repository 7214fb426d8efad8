"""MLflow's own samples of the machine while a stage runs (`system/…`)."""

from __future__ import annotations

import logging
import os
from typing import Any

from flows.tracking.client import client_uri


class SystemSampler:
    """MLflow's sampler of processors, memory, disks, network and GPUs, every 10 s.

    MLflow's own variables hold: MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL (seconds),
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false.
    """

    def __init__(self) -> None:
        self._monitor: Any = None

    def start(self, run_id: str) -> None:
        """Begins to log to a run."""
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("false", "0"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitor = SystemMetricsMonitor(run_id, tracking_uri=client_uri())  # type: ignore[no-untyped-call]
        self._monitor.start()

    def stop(self) -> None:
        """Ends it; a second time does nothing."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
