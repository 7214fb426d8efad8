"""The pipeline's commands of `ghn`: one per stage, as dvc.yaml calls them, and those around
params.yaml and MLflow.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ghn import options
from ghn.errors import ConfigError
from ghn.interrupts import interruptible

STAGES_PANEL = "Stages, as dvc.yaml calls them"
AROUND_PANEL = "Around the pipeline"


class StageCommand(TyperCommand):
    """A stage, whose settings are in params.yaml: an option that it does not have is answered with
    how to set the field.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuses unknown options.

        Raises:
            ConfigError: there is one.
        """
        known = {name for parameter in self.params for name in parameter.opts}
        for place, text in enumerate(args):
            name, _, value = text.partition("=")
            if name.startswith("--") and name not in {*known, *ctx.help_option_names}:
                value = value or next(iter(args[place + 1 : place + 2]), "VALUE")
                raise ConfigError(_no_option(str(ctx.info_name), name, value))
        found: list[str] = super().parse_args(ctx, args)
        return found


def _no_option(stage: str, option: str, value: str) -> str:
    from flows.params import Params
    from flows.settings.describe import is_field

    field = f"{stage}.{option[2:].replace('-', '_')}"
    if is_field(Params, field):
        how = f"`ghn run {stage} -S {field}={value}` sets it and runs the stage"
    else:
        how = f"`ghn params describe {stage}` lists what can be set"
    return f"{option} is no option: a stage takes its settings from params.yaml; {how}"


def run_stage(name: str, label: str | None = None, **options: Any) -> None:
    """Runs stage `name` (`flows.stages.runner.run_stage`); SIGTERM ends it as orderly as Ctrl-C."""
    from flows.stages import runner

    terminated: list[int] = []
    try:
        with interruptible(signal.SIGTERM) as terminated:
            runner.run_stage(name, label, **options)
    except KeyboardInterrupt:
        if not terminated:
            raise
        _say_terminated()
        # CPython kills itself by SIGINT in the end if the exception came up in an `exec` of text,
        # as dataclasses do at import, also where it was caught; another `exec` takes that back
        # (`unhandled_keyboard_interrupt` of Python/pythonrun.c).
        exec("")
        raise typer.Exit(128 + signal.SIGTERM) from None


def _say_terminated() -> None:
    typer.echo(
        "ghn: ended by SIGTERM; what was finished is kept, and the same command goes on", err=True
    )


def generate(split: Annotated[str, typer.Option("--split", help="The split to generate.")]) -> None:
    """Generate a split of DeepNets-1M: architectures and their graphs.

    params.yaml: `generate`. Writes data/deepnets1m/SPLIT.h5 and .parquet.
    """
    run_stage("generate", f"generate@{split}", split=split)


def validate() -> None:
    """Check every graph of every split; any failure fails the stage.

    params.yaml: `generate` and `validate`. Writes reports/validation.json and validation.csv.
    """
    run_stage("validate")


def sources() -> None:
    """Look whether images, weights and networks outside of the tree changed.

    params.yaml: `images`, `train`, `finetune` and `transfer`. Writes data/sources/*.json.
    """
    run_stage("sources")


def images() -> None:
    """Decode the image data set into tensors.

    params.yaml: `images`. Writes data/images/NAME.
    """
    run_stage("images")


def train() -> None:
    """Train the hypernetwork (resumes from the last checkpoint).

    params.yaml: `train` and `images`. Writes models/GHN/: ghn.safetensors, training.json,
    curve.json, steps.csv.
    """
    from flows.compute.ranks import run_training
    from flows.params import load_params

    if "RANK" in os.environ:  # one of `torchrun`
        run_stage("train")
        return
    params = load_params()
    code = run_training(
        params.train.processes,
        params.train.meta_batch_size,
        params.base.device,
        lambda: run_stage("train"),
        "flows.stages.train",
        per_gpu=params.train.ranks_per_gpu,
    )
    if code == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if code == 128 + signal.SIGTERM:
        _say_terminated()
    if code:
        raise typer.Exit(code)


def predict() -> None:
    """Predict the parameters of all evaluation architectures.

    params.yaml: `predict`, `architectures`, `images`. Writes results/predictions.parquet and
    metrics/predict.json.
    """
    run_stage("predict")


def evaluate(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="Not the stage: a state dict (safetensors or torch.save), or FILE.py:NAME.",
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="With FILE: where images are.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help="With FILE: the network whose parameters it has.",
            autocompletion=options.complete_network,
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="With FILE: train, val, test or all.")
    ] = "test",
    image_size: options.ImageSize = None,
    device: options.DeviceOption = options.Device.auto,
    as_json: options.Json = False,
) -> None:
    """Measure the accuracy of predicted parameters without training; with FILE, that of a network.

    The stage: params.yaml: `evaluate`, `architectures` and `images`. Writes
    results/evaluation.parquet, evaluation.json, evaluation_histogram.csv and metrics/evaluate.json.

    `ghn evaluate FILE --images DIR`: the accuracy of one network of yours; writes nothing.
    """
    if file is not None:
        from flows.commands.accuracy import evaluate_file

        evaluate_file(file, images, network, split, image_size, device, as_json)
        return
    if images is not None or network is not None:
        raise ConfigError("--images and --network go with a FILE; the stage takes params.yaml's")
    run_stage("evaluate")


def finetune() -> None:
    """Fine-tune predicted and random parameters of the top architectures.

    params.yaml: `finetune` and `images`. Writes results/finetune.parquet,
    finetune_curves.csv and metrics/finetune.json.
    """
    run_stage("finetune")


def transfer() -> None:
    """Transfer to another data set from few labels.

    params.yaml: `transfer` and `images`. Writes results/transfer.parquet and
    metrics/transfer.json.
    """
    run_stage("transfer")


def register_model() -> None:
    """Register the hypernetwork in the MLflow registry.

    params.yaml: `register` and `images`. Writes results/registration.json.
    """
    run_stage("register")


def report() -> None:
    """Write the report.

    params.yaml: `report`, `images`, `train` and `register`. Writes reports/index.html.
    """
    run_stage("report")


STAGES = (
    generate,
    validate,
    sources,
    images,
    train,
    predict,
    evaluate,
    finetune,
    transfer,
    register_model,
    report,
)

mlflow_app = typer.Typer(help="The MLflow store of the pipeline.", no_args_is_help=True)


@mlflow_app.command("sync")
def sync_mlflow() -> None:
    """Send what stages logged while the MLflow store was away."""
    from flows.tracking.client import SPOOL, shown_uri
    from flows.tracking.spool import send_pending
    from flows.words import counted

    sent = send_pending(Path(SPOOL))
    typer.echo(f"{counted(sent, 'run')} sent to {shown_uri()}")


def register(app: typer.Typer) -> None:
    """Adds the pipeline's commands to `app` (entry point group `ghn.commands`)."""
    for stage in STAGES:
        name = stage.__name__.removesuffix("_model")
        app.command(name, cls=StageCommand, rich_help_panel=STAGES_PANEL)(stage)
    from flows.commands.networks import compare, init
    from flows.commands.parameters import params_app

    app.command("init")(init)  # in place of the library's, which knows no images
    app.command("compare")(compare)
    app.add_typer(params_app, name="params", rich_help_panel=AROUND_PANEL)
    app.add_typer(mlflow_app, name="mlflow", rich_help_panel=AROUND_PANEL)
    from flows.commands.experiments import experiments_app
    from flows.commands.graph import graph_app, trace
    from flows.commands.operations import registry_app, serve, stack_app
    from flows.commands.run import run

    app.command("trace")(trace)  # in place of the library's, which knows no splits
    app.command("run", rich_help_panel=AROUND_PANEL)(run)
    app.add_typer(experiments_app, name="experiments", rich_help_panel=AROUND_PANEL)
    app.add_typer(graph_app, name="graph", rich_help_panel=AROUND_PANEL)
    app.add_typer(registry_app, name="registry", rich_help_panel=AROUND_PANEL)
    app.command("serve", rich_help_panel=AROUND_PANEL)(serve)
    app.add_typer(stack_app, name="stack", rich_help_panel=AROUND_PANEL)
