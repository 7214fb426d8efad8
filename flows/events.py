"""Events that other deployments wait for (`triggers` in prefect.yaml): new data, a new champion.

Without a Prefect server (PREFECT_API_URL) there is nobody to tell, so nothing is sent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

DATA_CHANGED = "ghn.data.changed"
"""A stage wrote other outputs than before; resource `ghn.stage.<stage>`, for example `ghn.stage.generate@train`."""

CHAMPION_CHANGED = "ghn.champion.changed"
"""Alias @champion points to another version; resource `ghn.model.<name>`."""


def outputs_changed(stage: str, directory: Path) -> None:
    """Says that `stage` wrote new outputs in `directory`."""
    _emit(DATA_CHANGED, f"ghn.stage.{stage}", {"stage": stage, "directory": str(directory)})


def champion_changed(model: str, version: str, reason: str) -> None:
    """Says that `version` of registered model `model` is the champion now."""
    _emit(CHAMPION_CHANGED, f"ghn.model.{model}", {"model": model, "version": version, "reason": reason})


def _emit(event: str, resource: str, payload: dict[str, Any]) -> None:
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    emit_event(event=event, resource={"prefect.resource.id": resource}, payload=payload)
