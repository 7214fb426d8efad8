"""Stage train: trains the hypernetwork on the training split of DeepNets-1M and the training
images.

`ghn train` starts as many ranks on this machine as `train.processes` says (`flows.compute.ranks`);
on several machines the entry point is the same: `torchrun --nnodes=4 --nproc-per-node=8 ... -m
flows.stages.train`. A run that is interrupted, in whatever way, goes on from its last checkpoint
when the same command is given again. Checkpoints are in models/<ghn>/checkpoints/<digest of
everything that decides the weights>/ until the run is complete, so changed parameters start a new
run and never mix with the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.compute.shell import exit_with_parent
from flows.networks.targets import TORCHVISION, Target, build, open_split
from flows.rows.digest import digest
from flows.settings import paths
from flows.settings.train import TrainStageConfig
from ghn.errors import ConfigError, GHNError
from ghn.files import atomic_path
from ghn.train import Callback, ProgressBar, StepRecord

if TYPE_CHECKING:
    import torch

    from datasets.deepnets import MetaBatch, Split
    from flows.settings.base import BaseConfig
    from flows.settings.images import ImagesConfig
    from flows.tracking.run import StageRun
    from ghn.models import GHN, GHNConfig
    from ghn.train import Ranks

CURVE_NAME = "curve.json"
"""Evaluations against steps, for `dvc plots`."""

STEPS_NAME = "steps.csv"
"""Loss and accuracy of the training steps, for `dvc plots` and the report."""

SUMMARY_NAME = "training.json"
"""The last evaluation, for `dvc metrics`."""


@dataclass(frozen=True)
class Curve:
    """Accuracy of predicted parameters on architectures that training does not see, along the way.

    Attributes:
        targets: the architectures.
        batches: validation images and labels.
        num_classes: of the images.
        image_size: of the images.
    """

    targets: list[Target]
    batches: list[tuple[torch.Tensor, torch.Tensor]]
    num_classes: int
    image_size: int

    def __call__(self, ghn: GHN) -> dict[str, float]:
        """Mean and best accuracy per split; torchvision models by name."""
        from flows.networks.score import score

        accuracies: dict[str, list[float]] = {}
        metrics: dict[str, float] = {}
        device = ghn.device
        for target in self.targets:
            model, graph = build(target, self.num_classes, self.image_size)
            batches = [(x.to(device), y.to(device)) for x, y in self.batches]
            accuracy = score(ghn(model.to(device), graph), batches).accuracy
            if target.split == TORCHVISION:
                metrics[target.id] = accuracy
            else:
                accuracies.setdefault(target.split, []).append(accuracy)
        for split, values in accuracies.items():
            metrics |= {f"{split}_mean": sum(values) / len(values), f"{split}_best": max(values)}
        return metrics


class Tracker(Callback):
    """Sends what a run reports to the stage's MLflow run."""

    def __init__(self, stage: StageRun) -> None:
        self._stage = stage

    def on_report(self, record: StepRecord) -> None:
        """Means since the last report."""
        self._stage.log_metrics(record.metrics(), record.step)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Accuracies of unseen architectures."""
        self._stage.log_metrics({f"curve/{name}": value for name, value in metrics.items()}, step)

    def on_warning(self, step: int, message: str) -> None:
        """Kept as a tag: the last warning."""
        self._stage.set_tags({"warning": f"step {step}: {message}"})


def run(
    base: BaseConfig, images: ImagesConfig, train: TrainStageConfig, stage: StageRun | None
) -> None:
    """Trains, or goes on training, and writes
    models/<ghn>/{ghn.safetensors,curve.json,training.json}.

    Args:
        base, images, train: sections of params.yaml.
        stage: the MLflow run; None on ranks other than 0.
    """
    from flows.stages.images import training_images
    from ghn.train import ranks
    from ghn.train import train as train_hypernetwork

    config = train
    training = training_images(images, base.seed)
    split = open_split(paths.DEEPNETS, config.split)
    ghn_config = config.hypernetwork(training.num_classes)
    identity = {
        "images": training.digest,
        "architectures": split.content,
        "networks": config.networks.model_dump(mode="json"),
        "ghn": ghn_config.to_dict(),
        "output_gain": config.output_gain,
        "distance_gain": config.distance_gain,
    }
    initial = None if config.initial is None else trained_hypernetwork(config.initial, ghn_config)
    if initial is not None:
        identity["initial"] = _content(initial)
    recipe = config.recipe_with(base.seed)
    output = paths.model(base.ghn)
    directory = output / "checkpoints" / digest(recipe.recipe(), identity)[:12]
    with ranks(base.device) as group:
        ghn = initial or new_hypernetwork(ghn_config, recipe.seed, config.output_gain)
        emphasize_distance(ghn, config.distance_gain)
        callbacks = [ProgressBar(), Tracker(stage)] if stage is not None else []
        result = train_hypernetwork(
            recipe,
            ghn,
            _meta_batches(
                config, images.image_size, recipe.seed, split, training.num_classes, group
            ),
            training,
            directory,
            callbacks=callbacks,
            evaluate=curve(base, images, train) if group.is_main else None,
            metric="val_mean",
            ranks=group,
            identity=identity,
            metadata={
                "variant": config.variant,
                "images": images.name,
                "image_size": images.image_size,
                "classes": list(training.classes),
            },
        )
        if group.is_main:
            _publish(directory, result.weights, output)
    if stage is not None:
        stage.log_metrics({"skipped_steps": result.skipped})
        stage.log_artifact(output / CURVE_NAME)
        stage.log_artifact(output / SUMMARY_NAME)


def new_hypernetwork(config: GHNConfig, seed: int, output_gain: float) -> GHN:
    """A hypernetwork with initial weights drawn by `seed`, those of its last layers times
    `output_gain`.
    """
    import torch

    from ghn.models import GHN

    torch.manual_seed(seed)
    ghn = GHN(config)
    with torch.no_grad():
        for last in (ghn.tensors.block, ghn.tensors.classes, ghn.vectors.out):
            last.weight *= output_gain
    return ghn


def trained_hypernetwork(source: str, config: GHNConfig) -> GHN:
    """The hypernetwork that training goes on from.

    Raises:
        ConfigError: it is not of the configuration that `train.variant`, `train.ghn` and the images
            ask for.
        GHNError: it does not exist, cannot be reached, or is no hypernetwork.
    """
    from ghn import from_pretrained

    ghn = from_pretrained(source)
    found, wanted = ghn.config.to_dict(), config.to_dict()
    if differing := [name for name in found if found[name] != wanted[name]]:
        has, asked = (
            ", ".join(f"{name} = {fields[name]}" for name in differing)
            for fields in (found, wanted)
        )
        raise ConfigError(
            f"train.initial: {source} has {has}, but train.variant, train.ghn and images ask for"
            f" {asked}; change train.ghn (or images), or train.initial"
        )
    return ghn.train()


def emphasize_distance(ghn: GHN, gain: float) -> None:
    """Multiplies the embeddings of the distance from the input (section A.1) by `gain`, in place.

    Raises:
        ConfigError: the hypernetwork has none, and `gain` is not 1.
    """
    import torch

    if gain == 1:
        return
    if ghn.embedding.input_distance is None:
        raise ConfigError(
            "train.distance_gain: this hypernetwork does not embed distances from the input; leave"
            " it at 1"
        )
    with torch.no_grad():
        ghn.embedding.input_distance.weight *= gain


def _content(ghn: GHN) -> str:
    """Digest of the weights: a registry alias or a rewritten file may come to mean others."""
    content = hashlib.sha256()
    for name, tensor in sorted(ghn.state_dict().items()):
        content.update(name.encode())
        content.update(tensor.contiguous().numpy())
    return content.hexdigest()


def curve(base: BaseConfig, images: ImagesConfig, config: TrainStageConfig) -> Curve | None:
    """What evaluates the hypernetwork along the way, or None if nothing is to be."""
    from flows.stages.images import load_split

    splits = ("val", "test") if config.curve_test else ("val",)
    targets = [
        Target(f"deepnets1m/{split}/{index}", split, index)
        for split in (splits if config.curve_architectures else ())
        for index in range(min(config.curve_architectures, len(open_split(paths.DEEPNETS, split))))
    ]
    targets += [Target(name, TORCHVISION) for name in config.curve_torchvision]
    if not targets:
        return None
    val = load_split(images, "val")
    batches = list(val.batches(64, base.seed, drop_last=True))[: max(1, config.curve_images // 64)]
    return Curve(targets, batches, val.num_classes, val.image_size)


def _meta_batches(
    config: TrainStageConfig,
    image_size: int,
    seed: int,
    split: Split,
    num_classes: int,
    group: Ranks,
) -> Callable[[int], Iterator[MetaBatch]]:
    """From a step number to this rank's share of the meta-batches from it on."""
    from datasets.deepnets import MetaBatches, meta_batches

    batches = MetaBatches(
        split,
        config.meta_batch_size,
        num_classes,
        image_size,
        seed,
        group.rank,
        group.world,
        config.networks,
    )

    def from_step(step: int) -> Iterator[MetaBatch]:
        return meta_batches(
            batches, step, config.graph_workers, pin_memory=group.device.type == "cuda"
        )

    return from_step


def _publish(directory: Path, weights: Path, output: Path) -> None:
    """Copies the outcome to where later stages and DVC look for it, and forgets how it came
    about.
    """
    lines = [json.loads(line) for line in (directory / "curve.jsonl").read_text().splitlines()]
    for name, content in ((CURVE_NAME, lines), (SUMMARY_NAME, lines[-1] if lines else {})):
        with atomic_path(output / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    with atomic_path(output / paths.WEIGHTS_NAME) as temporary:
        shutil.copyfile(weights, temporary)
    steps = [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]
    with atomic_path(output / STEPS_NAME) as temporary:
        temporary.write_text(thinned(steps))
    shutil.rmtree(directory)


def thinned(steps: Sequence[Mapping[str, Any]], windows: int = 200) -> str:
    """The steps as CSV, averaged over at most `windows` stretches of equal length; skipped steps
    are left out.
    """
    names = ("step", "loss", "cross_entropy", "accuracy", "gradient_norm", "lr")
    rows = np.array(
        [[step[name] for name in names] for step in steps if not step["skipped"]], dtype=np.float64
    )
    stretches = np.array_split(rows, min(windows, len(rows))) if len(rows) else []
    lines = [",".join(f"{value:.6g}" for value in stretch.mean(axis=0)) for stretch in stretches]
    return "\n".join([",".join(names), *lines]) + "\n"


def main() -> None:
    """Entry point of `torchrun`: rank 0 runs the stage like `ghn train`, the others help.

    What stops all ranks alike (an input error, Ctrl-C) is said by rank 0; the others end with the
    same exit code.
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
        sys.exit(f"ghn: {error}" if is_main else error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
