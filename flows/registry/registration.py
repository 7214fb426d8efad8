"""How a model becomes a version in the registry: upload, version, alias, decision.

`flows.tracking.sender` calls `register` for the line that `StageRun.register_model` wrote.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.registry.lookup import RegistryError
from flows.registry.promotion import promote
from flows.tracking.client import SPOOL
from flows.tracking.sender import Op, upload

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
    """Uploads the model in directory `op["path"]`, makes it a version, points the alias to it and
    decides whether it becomes the champion.
    """
    from mlflow.exceptions import MlflowException

    upload(mlflow_client, run_id, Path(op["path"]), "model")
    try:
        mlflow_client.create_registered_model(op["name"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A log that was sent in part before may have made its version.
    made = mlflow_client.search_model_versions(f"name = '{op['name']}' and run_id = '{run_id}'")
    version = (
        made[0]
        if made
        else mlflow_client.create_model_version(
            op["name"],
            source=f"{mlflow_client.get_run(run_id).info.artifact_uri}/model",
            run_id=run_id,
            tags=op["tags"],
            description=op["description"],
        )
    )
    mlflow_client.set_registered_model_alias(op["name"], op["alias"], version.version)
    if SPOOL.resolve() in Path(op["path"]).resolve().parents:  # made for this upload
        shutil.rmtree(op["path"], ignore_errors=True)
    try:
        decision = promote(op["name"], version.version, mlflow_client=mlflow_client)
    except RegistryError as error:  # a version without an evaluation: nothing to compare
        print(f"{op['name']} version {version.version}: {error}", file=sys.stderr)
    else:
        verdict = "is the champion" if decision.promoted else "stays a challenger"
        print(f"{op['name']} version {version.version} {verdict}: {decision.reason}")
