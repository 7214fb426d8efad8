"""Events that other deployments wait for (`triggers` in prefect.yaml): new data, a new champion.

Without a Prefect server (PREFECT_API_URL) there is nobody to tell, so nothing is sent.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

from ghn.addresses import request, without_credentials

TIMEOUT_SECONDS = 10.0

DATA_CHANGED = "ghn.data.changed"
"""A stage wrote other outputs than before; resource `ghn.stage.<stage>`, for example
`ghn.stage.generate@train`.
"""

CHAMPION_CHANGED = "ghn.champion.changed"
"""Alias @champion points to another version; resource `ghn.model.<name>`."""

CHALLENGER_WAITS = "ghn.challenger.waits"
"""A version waits for somebody who decides about it; resource `ghn.model.<name>`."""

CHAMPION_DRIFTED = "ghn.champion.drifted"
"""The champion, evaluated anew, is not worth what it was; resource `ghn.model.<name>`."""


def outputs_changed(stage: str, directory: Path, dependents_run: bool) -> None:
    """Says that `stage` wrote new outputs in `directory`.

    The label `ghn.dependents` tells whether the run that did so goes on with what depends on them
    ("included") or leaves that to others ("waiting"): a trigger that matches the latter does not
    repeat the work of the former.
    """
    labels = {"ghn.dependents": "included" if dependents_run else "waiting"}
    _emit(DATA_CHANGED, f"ghn.stage.{stage}", {"stage": stage, "directory": str(directory)}, labels)


def champion_changed(model: str, version: str, reason: str) -> None:
    """Says that `version` of registered model `model` is the champion now."""
    _emit(
        CHAMPION_CHANGED,
        f"ghn.model.{model}",
        {"model": model, "version": version, "reason": reason},
    )


def challenger_waits(model: str, version: str) -> None:
    """Says that `version` of registered model `model` waits for an approval."""
    _emit(CHALLENGER_WAITS, f"ghn.model.{model}", {"model": model, "version": version})


def champion_drifted(model: str, version: str, difference: float) -> None:
    """Says that the champion is worth so much more (less, if negative) than when it was
    registered.
    """
    payload = {"model": model, "version": version, "difference": difference}
    _emit(CHAMPION_DRIFTED, f"ghn.model.{model}", payload)


def _emit(
    event: str, resource: str, payload: dict[str, Any], labels: dict[str, str] | None = None
) -> None:
    """Posts an event; a server that does not take it costs a line, never the work it tells of.

    By HTTP, since stages tell of events and need not import Prefect for it.
    """
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return
    told = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": event,
        "resource": {"prefect.resource.id": resource, **(labels or {})},
        "payload": payload,
    }
    headers = {"content-type": "application/json"}
    if key := os.environ.get("PREFECT_API_KEY"):
        headers["authorization"] = f"Bearer {key}"
    elif secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["authorization"] = f"Basic {b64encode(secret.encode()).decode()}"
    try:
        post = request(f"{url.rstrip('/')}/events", json.dumps([told]).encode(), headers)
        urlopen(post, timeout=TIMEOUT_SECONDS).close()
    except (OSError, HTTPException, ValueError) as error:
        # The text of the latter two may have a part of a password.
        reason = error if isinstance(error, OSError) else type(error).__name__
        print(
            f"Prefect at {without_credentials(url)} was not told of {event}: {reason}",
            file=sys.stderr,
        )
