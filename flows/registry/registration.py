"""How a model becomes a version in the registry: upload, version, alias, decision.

`flows.tracking.sender` calls `register` for the line that `StageRun.register_model` wrote. Weights
that a version has already make no second one: that version gets the new evaluation instead.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.registry.approval import hold
from flows.registry.evaluation import EVALUATION_RUN, read_evaluation
from flows.registry.logged import LOGGED_MODEL, link, log_model, log_table, note_version
from flows.registry.lookup import RegistryError, by_alias, set_tags, versions
from flows.registry.promotion import promote
from flows.rows.provenance import dvc_hash
from flows.settings import paths
from flows.tracking.client import SPOOL
from flows.tracking.sender import Op, upload
from ghn.errors import GHNError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

WEIGHTS_HASH = "weights.md5"
"""Tag of a version: the DVC hash of its weights, whatever the file was called."""

REGISTERED = "registered.time_ms"
"""Tag of a version: when its stage registered it last, milliseconds since 1970."""

_ABOUT = """Graph hypernetworks that predict the parameters of neural networks
([GHN-3](https://arxiv.org/abs/2303.04143)). `ghn.from_pretrained("models:/{name}@champion")` and
`mlflow.pytorch.load_model` give the hypernetwork, `mlflow.pyfunc.load_model` answers requests.
@champion is the best so far, @challenger the last; each version's tags say why.
"""
"""Description of the registered model."""


def register(mlflow_client: MlflowClient, run_id: str, op: Op) -> None:
    """Makes the model in directory `op["path"]` a version, points the alias to it, unless that was
    given to a model that was registered later, and decides whether it becomes the champion.
    """
    from mlflow.exceptions import MlflowException

    name, path = op["name"], Path(op["path"])
    try:
        mlflow_client.create_registered_model(name, description=_ABOUT.format(name=name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    latest = by_alias(name, op["alias"], mlflow_client)
    is_latest = latest is None or int(latest.tags.get(REGISTERED, "0")) <= op["time_ms"]
    tags = op["tags"] | _content(path)
    if is_latest:
        tags[REGISTERED] = str(op["time_ms"])
    evaluation = path / "artifacts" / paths.EVALUATION.name
    if evaluation.exists():
        upload(mlflow_client, run_id, evaluation, "model/artifacts")
        log_table(mlflow_client, run_id, evaluation)
    if (known := _of_same_weights(mlflow_client, name, run_id, tags)) is None:
        number = _new_version(mlflow_client, run_id, op, tags)
    else:
        number = str(known.version)
        if evaluation.exists():
            tags |= {EVALUATION_RUN: run_id}
        set_tags(mlflow_client, name, number, tags)
        print(f"{name} version {number} has these weights already: there is no second version")
    if is_latest:
        mlflow_client.set_registered_model_alias(name, op["alias"], number)
    if SPOOL.resolve() in path.resolve().parents:  # made for this upload
        shutil.rmtree(path, ignore_errors=True)
    if op.get("hold"):
        hold(mlflow_client, name, number)
    else:
        _decide(mlflow_client, name, number)
    address = f"models:/{name}@{op['alias']}" if is_latest else f"models:/{name}/{number}"
    print(f"It predicts parameters by: ghn init resnet50 --from {address}")


def _content(model: Path) -> dict[str, str]:
    """Tags about what is in the model's directory: the hash of the weights, and the accuracy on
    the images that do not decide.
    """
    tags = {}
    if md5 := dvc_hash(model / "artifacts" / paths.WEIGHTS_NAME):
        tags[WEIGHTS_HASH] = md5
    try:
        reported = read_evaluation(model / "artifacts" / paths.EVALUATION.name).reported()
    except GHNError:  # none, or none to compare by: the decision says so
        return tags
    return tags | {f"accuracy.{split}": f"{value:.5f}" for split, value in reported.items()}


def _of_same_weights(
    mlflow_client: MlflowClient, name: str, run_id: str, tags: Mapping[str, str]
) -> ModelVersion | None:
    """The version of another run that has the weights of these tags."""
    md5 = tags.get(WEIGHTS_HASH)

    def same(version: ModelVersion) -> bool:
        return any(
            value == md5 and (key == WEIGHTS_HASH or key.endswith(paths.WEIGHTS_NAME))
            for key, value in version.tags.items()
        )

    found = versions(name, mlflow_client=mlflow_client) if md5 else []
    return next((v for v in found if same(v) and v.run_id != run_id), None)


def _new_version(mlflow_client: MlflowClient, run_id: str, op: Op, tags: Mapping[str, str]) -> str:
    """The number of the version of this run; a log that was sent in part before may have made
    it.
    """
    made = mlflow_client.search_model_versions(f"name = '{op['name']}' and run_id = '{run_id}'")
    if made:
        return str(made[0].version)
    model = log_model(mlflow_client, run_id, op["name"], Path(op["path"]), tags)
    version = mlflow_client.create_model_version(
        op["name"],
        source=model.artifact_location,
        run_id=run_id,
        tags=dict(tags) | {LOGGED_MODEL: model.model_id},
        description=f"{op['description']}. {link(model)}",
        model_id=model.model_id,  # kept by some stores only: hence the tag
    )
    note_version(mlflow_client, model, op["name"], str(version.version))
    about = {"mlflow.note.content": op["description"]}  # on its page
    mlflow_client.set_logged_model_tags(model.model_id, about)
    return str(version.version)


def _decide(mlflow_client: MlflowClient, name: str, number: str) -> None:
    try:
        decision = promote(name, number, mlflow_client=mlflow_client, automatic=True)
    except RegistryError as error:  # a version without an evaluation: nothing to compare
        print(error, file=sys.stderr)
        return
    verdict = "is the champion" if decision.champion else "stays a challenger"
    print(f"{name} version {number} {verdict}: {decision.reason}")
