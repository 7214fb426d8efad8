"""Flows that run on a schedule, on demand or on an event, beside the pipeline itself (prefect.yaml
deploys them).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from flows.orchestration.artifacts import mlflow_links
from flows.orchestration.crashes import end_with_worker
from flows.orchestration.menus import Profile, Stage
from flows.orchestration.pipeline import pipeline
from flows.orchestration.tasks import run_stage
from flows.orchestration.workspace import experiment
from flows.params import load_params
from flows.registry import lookup
from flows.registry.drift import DriftError, as_registered, drift, evaluated_anew
from flows.registry.evaluation import evaluation_of
from flows.rows.provenance import dvc_hash
from flows.settings import paths
from flows.tracking import pipeline_run, stage_run
from flows.tracking.client import client
from flows.tracking.events import champion_drifted
from flows.words import now
from ghn.errors import UnreachableError

Variant = Literal[
    "ghn3-t",
    "ghn3-s",
    "ghn3-l",
    "ghn3-xl",
    "ghn2",
    "ghn2-s",
    "ghn1",
    "mlp",
    "logah-t",
    "logah-s",
    "logah-b",
    "logah-l",
]
"""Those variants that have a name in a paper, as a menu."""


@flow(
    name="train", log_prints=True, flow_run_name="train-{variant}-{data_set}", persist_result=False
)
def train(
    variant: Variant = "ghn3-t",
    data_set: str = "digits",
    profile: Profile = "laptop",
    overrides: dict[str, Any] | None = None,
    targets: list[Stage] | None = None,
    approval: bool = False,
) -> dict[str, str]:
    """Trains a hypernetwork with parameters of its own, evaluates and registers it; kept as a DVC
    experiment.

    Args:
        variant: GHN-3 of four sizes, GHN-2, GHN-1, MLP; LoGAH of four sizes.
        data_set: `digits`, `cifar10`, `cifar100`, `imagenet`, or a Parquet file or folder tree.
        profile: Overlay of params.yaml: `laptop` (none), `paper`, ...
        overrides: Further parameters by dotted name, such as {"train.steps": 5000}.
        targets: Stages to bring up to date; by default training, evaluation and registration.
        approval: Somebody has to approve of it before it becomes the champion (promote/approval).
    """
    values = {"train.variant": variant, "images.name": data_set, **(overrides or {})}
    return pipeline.with_options(name="experiment")(
        targets=targets or ["train", "evaluate", "register"],
        overrides=values,
        profile=profile,
        approval=approval,
    )


def _unreachable(_task: Any, _run: Any, state: State) -> bool:
    """A server that does not answer may do so later; an unknown name stays unknown."""
    return isinstance(state.data, UnreachableError | ConnectionError | TimeoutError)


@task(
    name="predict parameters",
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=5),
    retry_condition_fn=_unreachable,
    timeout_seconds=3600,
    persist_result=False,
)
def predict_parameters(
    architecture: str, source: str | None, out: Path, classes: int | None, image_size: int | None
) -> str:
    """`ghn init` as a task; returns its summary."""
    from ghn.initialize import save_initialized

    return save_initialized(architecture, source, out, num_classes=classes, image_size=image_size)


@flow(name="init", log_prints=True, flow_run_name="init-{architecture}", persist_result=False)
def init(
    architecture: str,
    classes: int | None = None,
    image_size: int | None = None,
    source: str = "models:/ghn3@champion",
    out: str | None = None,
) -> str:
    """Predicts the parameters of one architecture and logs them to MLflow; returns the file.

    Args:
        architecture: A name that `ghn list` shows.
        classes: By default those of the hypernetwork.
        image_size: Side in pixels; by default what the hypernetwork was trained on.
        source: The hypernetwork: `models:/ghn3@champion`, a file, or a released name.
        out: Where to write the safetensors file; by default
            results/init/<architecture>.safetensors.
    """
    end_with_worker()
    file = Path(out or paths.RESULTS / "init" / f"{architecture.replace('/', '-')}.safetensors")
    params = load_params()
    settings = {
        "architecture": architecture,
        "classes": classes,
        "image_size": image_size,
        "source": source,
    }
    with stage_run(
        "init", settings, experiment=params.base.experiment, connect_after_seconds=0
    ) as run:
        summary = predict_parameters(architecture, source, file, classes, image_size)
        run.log_artifact(file)
    create_markdown_artifact(
        f"`{file}`\n\n{summary}", key="init", description=f"Parameters of {architecture}"
    )
    return str(file)


@flow(
    name="reevaluate",
    log_prints=True,
    flow_run_name="reevaluate-{model}-{alias}",
    persist_result=False,
)
def reevaluate(
    model: str = "ghn3", alias: str = lookup.CHAMPION, overrides: dict[str, Any] | None = None
) -> dict[str, float]:
    """Evaluates the registry's champion anew on all 974 architectures, with today's code, on the
    images and under the settings that it was registered with.

    A difference beyond the noise, or a further failure, means that the code changed what the model
    is worth: the flow fails, and an event says so (`ghn.champion.drifted`). The numbers are kept
    as tags of the version, and row by row in the MLflow run of the stage.

    Args:
        model: Registered model.
        alias: Of the version.
        overrides: Further parameters by dotted name, such as {"architectures.per_split": 10} for a
            quick look.
    """
    end_with_worker()
    version = lookup.by_alias(model, alias)
    if version is None:
        raise lookup.RegistryError(
            f"model {model} has no version @{alias}; `ghn registry list {model}` shows them"
        )
    number = str(version.version)
    registered = evaluation_of(version)  # before hours are spent
    ghn = re.sub(r"[^A-Za-z0-9._-]", "-", f"{model}-v{number}")  # a model's name may have spaces
    name = f"reevaluate-{ghn[:32]}-{flow_run.id or int(time.time())}"
    values = {
        "base.ghn": ghn,
        "architectures.per_split": None,
        "architectures.torchvision": "all",
        **as_registered(version.tags, registered),
        **(overrides or {}),
    }
    mlflow_experiment = load_params().base.experiment
    with (
        pipeline_run(f"reevaluate {model} {number}", values, mlflow_experiment) as parent_run,
        experiment(name, values) as workspace,  # kept as tags: no stage made this hypernetwork
    ):
        lookup.download(model, number, workspace.directory / paths.weights(values["base.ghn"]))
        if "images.name" in values:
            run_stage("images", workspace)  # those of the registration, whatever the tree has
            images = paths.images(values["images.name"])
            then = version.tags.get(f"dvc.{images.as_posix()}")
            if then not in (None, today := dvc_hash(workspace.directory / images)):
                raise lookup.RegistryError(
                    f"{images}: version {number} was registered with {then}, not with {today}"
                )
        run_stage("evaluate", workspace)
        fresh = evaluated_anew(workspace.directory)
    found = drift(fresh, registered)
    row: dict[str, Any] = {"version": number, **found.row()}
    noted = {**row, "drifted": found.drifted, "time": now()}
    tags = {f"reevaluation.{key.replace(' ', '_')}": value for key, value in noted.items()}
    lookup.set_tags(client(), model, number, tags)
    link = mlflow_links(parent_run, mlflow_experiment).get("evaluate", "")
    shown = {**row, "MLflow run": link}
    create_table_artifact(
        [shown], key="reevaluation", description=f"{model} version {number}, then and now"
    )
    if found.drifted:
        champion_drifted(model, number, row["difference"])
        raise DriftError(
            f"version {number} of {model}: accuracy {row['accuracy now']} now against"
            f" {row['accuracy when registered']} when it was registered (noise {row['noise']}),"
            f" {row['failed']} architectures failed"
        )
    return {key: float(value) for key, value in row.items()}
