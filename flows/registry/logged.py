"""The model of a version as an entity of MLflow 3: parameters, metrics and data sets on its page.

The files of the model are the logged model's own; the rows of the evaluation are also among the
run's artifacts, and as a table beside them, since later evaluations of the same weights come from
other runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import paths
from flows.tracking.client import MODE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

TABLE = "evaluation.json"
"""The evaluation among the run's artifacts, as MLflow's pages show and compare tables."""

LOGGED_MODEL = "logged_model"
"""Tag of a version: the id of its logged model."""

_COLUMNS = ("architecture", "split", "accuracy", "randinit_accuracy", "images", "gmacs", "error")
_METRICS = "metrics."
_PARAMS = ("variant", "hypernetwork", "parameters", "data_set", "image_size")


def log_model(
    mlflow_client: MlflowClient, run_id: str, name: str, path: Path, tags: Mapping[str, str]
) -> LoggedModel:
    """The logged model of this run, with the files of directory `path`; what an earlier try began
    is finished.

    Args:
        mlflow_client: where.
        run_id: of the stage register.
        name: of the registered model.
        path: an MLflow model.
        tags: of the version; those that are measures and settings become metrics and parameters.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment = mlflow_client.get_run(run_id).info.experiment_id
    found = [
        model
        for model in mlflow_client.search_logged_models(
            [experiment], f"source_run_id = '{run_id}'", max_results=1
        )
        if model.name == name
    ]
    if found and found[0].status == LoggedModelStatus.READY:
        return found[0]
    model = (
        found[0]
        if found
        else mlflow_client.create_logged_model(
            experiment,
            name=name,
            source_run_id=run_id,
            params={key: tags[key] for key in _PARAMS if key in tags},
            tags={key: value for key, value in tags.items() if not key.startswith(_METRICS)},
            model_type="hypernetwork",
        )
    )
    mlflow_client.log_model_artifacts(model.model_id, str(path))
    mlflow_client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    _log_metrics(mlflow_client, run_id, model.model_id, tags)
    return mlflow_client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def link(model: LoggedModel) -> str:
    """Markdown that leads from a version's page to that of its model and of its run."""
    page = f"#/experiments/{model.experiment_id}"
    return (
        f"[Metrics, parameters and data sets]({page}/models/{model.model_id}{MODE}), "
        f"[run]({page}/runs/{model.source_run_id}{MODE})"
    )


def note_version(mlflow_client: MlflowClient, model: LoggedModel, name: str, version: str) -> None:
    """Leads from the model's page to the version, as `mlflow.register_model` does."""
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    noted = json.dumps([{"name": name, "version": version}])
    mlflow_client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: noted})


def _log_metrics(
    mlflow_client: MlflowClient, run_id: str, model_id: str, tags: Mapping[str, str]
) -> None:
    """The measures among the tags, each with the data set that it was measured on."""
    for key, value in tags.items():
        if not key.startswith(_METRICS):
            continue
        metric = key.removeprefix(_METRICS)
        file = paths.DEEPNETS / f"{metric.split('.')[0]}.h5"
        digest = tags.get(f"dvc.{file.as_posix()}")
        mlflow_client.log_metric(
            run_id,
            metric.replace(".", "/"),
            float(value),
            dataset_name=file.as_posix() if digest else None,
            dataset_digest=digest[:36] if digest else None,
            model_id=model_id,
        )


def log_table(mlflow_client: MlflowClient, run_id: str, evaluation: Path) -> None:
    """Makes the rows of an evaluation a table among the run's artifacts, once."""
    import pandas as pd

    if any(entry.path == TABLE for entry in mlflow_client.list_artifacts(run_id)):
        return
    rows = pd.read_parquet(evaluation)
    shown = rows[[name for name in _COLUMNS if name in rows]]
    mlflow_client.log_table(run_id, shown, TABLE)
