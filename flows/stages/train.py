"""Stage train: trains the hypernetwork on the training split of DeepNets-1M and the training
images.

`ghn train` starts as many ranks on this machine as `train.processes` says (`flows.compute.ranks`);
on several machines the entry point is the same: `torchrun --nnodes=4 --nproc-per-node=8 ... -m
flows.stages.train`. A run that is interrupted, in whatever way, goes on from its last checkpoint
when the same command is given again. Checkpoints are in models/<ghn>/checkpoints/<digest of
everything that decides the weights>/, so changed parameters start a new run and never mix with the
old one. Of a complete run the last stays there until another run begins: the same command then
ends at once, with the same files.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.compute.parent import exit_with_parent
from flows.compute.rank import LOST, MESSAGES, say
from flows.networks.targets import open_split
from flows.rows.code import code_digest
from flows.rows.digest import digest
from flows.settings import paths
from flows.settings.train import TrainStageConfig
from flows.training.budget import Budget
from flows.training.curve import curve
from flows.training.live import LiveNumbers
from flows.training.lock import only_one
from flows.training.outcome import CURVE_NAME, SUMMARY_NAME, begin, publish
from flows.training.phases import Setting, fitted, phases, population_of, resized, settings
from flows.training.start import (
    content,
    emphasize_distance,
    lineage,
    new_hypernetwork,
    trained_hypernetwork,
)
from ghn.errors import GHNError
from ghn.train import Callback, ProgressBar, StepRecord, Training

if TYPE_CHECKING:
    from flows.settings.base import BaseConfig
    from flows.settings.images import ImagesConfig
    from flows.tracking.run import StageRun
    from flows.training.population import Population
    from ghn.models import GHN


class Tracker(Callback):
    """Sends what a run reports to the stage's MLflow run."""

    def __init__(self, stage: StageRun) -> None:
        self._stage = stage

    def on_report(self, training: Training, record: StepRecord) -> None:
        """Sends what is typical of the steps since the last report; of the loss the logarithm too,
        since MLflow's charts begin linear, and networks without norms can send it far up.
        """
        metrics = record.metrics()
        if (loss := metrics.get("cross_entropy", 0.0)) > 0:
            metrics["cross_entropy_log10"] = math.log10(loss)
        self._stage.log_metrics(metrics, record.step)

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Sends accuracies of unseen architectures."""
        curve = {f"curve/{name}": value for name, value in metrics.items()}
        self._stage.log_metrics(curve, training.step)

    def on_warning(self, training: Training, message: str) -> None:
        """Keeps the last warning as a tag."""
        self._stage.set_tags({"warning": f"step {training.step}: {message}"})


def run(
    base: BaseConfig, images: ImagesConfig, train: TrainStageConfig, stage: StageRun | None
) -> None:
    """Trains, or goes on training, and writes
    models/<ghn>/{ghn.safetensors,curve.json,training.json}.

    Args:
        base, images, train: sections of params.yaml.
        stage: the MLflow run; None on ranks other than 0.

    Raises:
        BusyError: another process trains this hypernetwork.
    """
    is_main = int(os.environ.get("RANK", "0")) == 0
    output = paths.model(base.ghn)
    with only_one(output) if is_main else nullcontext():
        _train(base, images, train, stage)


def _train(
    base: BaseConfig, images: ImagesConfig, config: TrainStageConfig, stage: StageRun | None
) -> None:
    from flows.stages.images import load_split, training_images
    from ghn.train import ranks, train

    output = paths.model(base.ghn)
    training = training_images(images, base.seed)
    if (smaller := fitted(config, len(training))) != config:
        if stage is not None:
            print(f"{len(training)} training images: each step takes all of them", file=sys.stderr)
        config = smaller
    split = open_split(paths.DEEPNETS, config.split)
    ghn_config = config.hypernetwork(training.num_classes)
    recipe = config.recipe_with(base.seed)
    initial = (
        None
        if config.initial is None
        else trained_hypernetwork(config.initial, ghn_config, recipe.seed)
    )
    population = population_of(config)
    found = settings(config, training.image_size)
    metadata = {
        "variant": config.variant,
        "images": images.name,  # which decides how images are normalised and whether mirrored
        "lineage": lineage(initial, images.name),
        "image_size": found[-1].image_size,
        "stretches": [(one.steps, one.meta_batch_size, one.batch_size) for one in found],
        "classes": list(training.classes),
    }
    identity = {
        "metadata": metadata,
        "images": training.digest,
        "architectures": split.content,
        "ghn": ghn_config.to_dict(),
        **_identity(config, found, population, initial),
    }
    directory = output / "checkpoints" / digest(recipe.recipe(), identity)[:12]
    with ranks(base.device) as group:
        ghn = initial or new_hypernetwork(ghn_config, recipe.seed, config.output_gain)
        emphasize_distance(ghn, config.distance_gain)
        workers = config.graph_workers
        *before, last = phases(
            found, split, training, recipe.seed, group, workers, population, ghn_config
        )
        held_out = resized(load_split(images, base.seed, "val"), found[-1].image_size)
        evaluate = curve(config, held_out, base.seed)
        if group.is_main:
            unseen = open_split(paths.DEEPNETS, "val").content
            name = digest(config.model_dump(mode="json"), held_out.digest, unseen)[:12]
            begin(directory, name)
        result = train(
            recipe,
            ghn,
            last.meta_batches,
            last.images,
            directory,
            callbacks=[] if stage is None else _callbacks(stage, config, directory),
            evaluate=evaluate,
            metric="val_mean",
            ranks=group,
            phases=before,
            identity=identity,
            metadata=metadata,
        )
        if group.is_main:
            publish(directory, result.weights, output, name)
    if stage is not None:
        stage.log_metrics({"skipped_steps": result.skipped, "left_out": result.left_out})
        stage.log_artifact(output / CURVE_NAME)
        stage.log_artifact(output / SUMMARY_NAME)


def _identity(
    config: TrainStageConfig,
    found: Sequence[Setting],
    population: Population | None,
    initial: GHN | None,
) -> dict[str, Any]:
    """What of the section decides the weights, the recipe apart, and the code."""
    identity = {
        "networks": found[-1].networks.model_dump(mode="json"),
        "output_gain": config.output_gain,
        "distance_gain": config.distance_gain,
        "code": code_digest("flows.stages.train"),
    }
    if population is not None:
        identity["population"] = population.content
    if config.phases:
        identity["stretches"] = [setting.identity() for setting in found]
    if initial is not None:
        identity["initial"] = content(initial)
    return identity


def _callbacks(stage: StageRun, config: TrainStageConfig, directory: Path) -> list[Callback]:
    """Who follows the run whose checkpoints are in `directory`."""
    callbacks: list[Callback] = [ProgressBar(), Tracker(stage)]
    if config.minutes is not None:
        callbacks.append(Budget(config.minutes, directory / "seconds.txt"))
    if config.live:
        callbacks.append(LiveNumbers())
    return callbacks


def main() -> None:
    """Entry point of `torchrun`: rank 0 runs the stage like `ghn train`, the others help.

    What stops ranks (an input error, a full disk, Ctrl-C) is said once, whichever rank meets it.
    """
    exit_with_parent()
    is_main = int(os.environ.get("RANK", "0")) == 0
    try:
        if is_main:
            from flows.stages.runner import run_stage

            run_stage("train")
        else:
            from flows.params import load_params

            params = load_params()
            run(params.base, params.images, params.train, None)
    except GHNError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        if is_main:
            said = str(interrupt) or "interrupted; the same command continues"
            # Our launcher says the second half.
            say(said.partition(";")[0] if MESSAGES in os.environ else said)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        say(f"{error.filename or 'input/output'}: {error.strerror or error}")
        sys.exit(1)
    except RuntimeError as error:
        if "Connection closed by peer" not in str(error):
            raise
        say(LOST)
        sys.exit(1)


if __name__ == "__main__":
    main()
