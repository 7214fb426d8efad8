"""Stage evaluate: accuracy of predicted parameters without any training (paper tables 2, 11, 12,
20; figs. 5, 7).

Batch norm uses the statistics of the batch, since running statistics are not predicted; batches are
shuffled by a fixed seed; dropout and stochastic depth are off. Next to each accuracy stands that of
the same network, randomly initialised, on the same batches. Images are the held-out test split.

With a budget (`evaluate.max_gmacs`) a network sees as many of the images as it affords, in the same
order; a row says how many.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flows.networks.build import build_network, forward_gmacs
from flows.networks.content import architecture_content
from flows.networks.score import score
from flows.networks.targets import TORCHVISION, Target, targets
from flows.rows.answers import pack
from flows.rows.cache import RowCache
from flows.rows.code import code_digest
from flows.rows.digest import digest, file_digest
from flows.rows.engine import Work
from flows.rows.metrics import write_metrics
from flows.rows.schema import Row, failures, identity, sound, write_rows
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.base import BaseConfig
from flows.settings.evaluate import EvaluateConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig
from flows.stages.images import load_split
from ghn.files import atomic_path

if TYPE_CHECKING:
    from datasets.images import ImageTensors
    from flows.tracking.run import StageRun
    from ghn.models import GHN

COLUMNS: dict[str, pa.DataType] = {
    "accuracy": pa.float64(),  # fraction of images whose class is ranked first
    "top5": pa.float64(),  # among the first five
    "loss": pa.float64(),  # mean cross-entropy; null where it is not finite
    "nonfinite": pa.int64(),  # images whose logits are not finite: they count as guesses
    "val_accuracy": pa.float64(),  # of validation images: choices are made by it
    "randinit_accuracy": pa.float64(),
    "randinit_top5": pa.float64(),
    "randinit_loss": pa.float64(),
    "images": pa.int64(),
    "correct": pa.string(),  # whether each of these images was right (`flows.rows.answers`)
    "randinit_correct": pa.string(),
    "settings": pa.string(),  # JSON: what two rows must share to be compared
    "parameters": pa.int64(),
    # 10^9 multiply-accumulates of one image's forward pass; DeepNets-1M: within a quarter
    "gmacs": pa.float64(),
}

HISTOGRAM = paths.RESULTS / "evaluation_histogram.csv"
"""What `dvc plots` shows."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluates one architecture, predicted and random; travels to the workers."""

    ghn: GHN
    images: ImageTensors
    val: ImageTensors
    config: EvaluateConfig
    seed: int
    device: str

    def __call__(self, target: Target) -> Row:
        """The columns of the row of `target`."""
        started = time.perf_counter()
        # A seed per architecture, whatever the order and the worker.
        torch.manual_seed(int(digest(self.seed, target.id), 16) % 2**63)
        model, graph = build_network(target, self.images.num_classes, self.images.image_size)
        ghn = self.ghn.to(self.device)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        cost = forward_gmacs(target, self.images.num_classes, self.images.image_size)
        batches = self.batches(self.images, cost)
        random = score(model, batches)
        predicted = score(ghn(model, graph), batches)
        chosen_on = score(model, self.batches(self.val, cost))
        return {
            "accuracy": predicted.accuracy,
            "top5": predicted.top5,
            "loss": predicted.loss,
            "nonfinite": predicted.nonfinite,
            "val_accuracy": chosen_on.accuracy,
            "randinit_accuracy": random.accuracy,
            "randinit_top5": random.top5,
            "randinit_loss": random.loss,
            "images": sum(len(labels) for _, labels in batches),
            "correct": pack(predicted.correct),
            "randinit_correct": pack(random.correct),
            "settings": self.settings(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "gmacs": cost,
            "seconds": time.perf_counter() - started,
        }

    def settings(self) -> str:
        """Describes what the row depends on besides hypernetwork and architecture, as JSON."""
        chosen = self.config.model_dump(include={"batch_size", "max_gmacs", "min_images"})
        images = {"images": len(self.images), "image_digest": self.images.digest[:16]}
        return json.dumps({**chosen, **images, "seed": self.seed}, sort_keys=True)

    def batches(self, images: ImageTensors, cost: float) -> list[tuple[Tensor, Tensor]]:
        """The batches that a network of `cost` GMACs is measured on: all images, or the first so
        many it affords.
        """
        n = len(images)
        if self.config.max_gmacs is not None:
            n = min(n, max(self.config.min_images, int(self.config.max_gmacs / cost)))
        batches = list(
            images.subset(range(n)).batches(
                self.config.batch_size, shuffle=False, drop_last=False, device=self.device
            )
        )
        if len(batches[-1][1]) == 1:  # one image has no statistics
            del batches[-1]
        return batches


def run(
    base: BaseConfig,
    fanout: FanOut,
    images: ImagesConfig,
    architectures: ArchitecturesConfig,
    evaluate: EvaluateConfig,
    stage: StageRun,
) -> None:
    """Evaluates all architectures of section `architectures` and writes
    results/evaluation.{parquet,json}.
    """
    from ghn import from_pretrained

    weights = paths.weights(base.ghn)
    measure = Evaluate(
        from_pretrained(weights),
        drawn(load_split(images, base.seed, "test"), base.seed, evaluate.images),
        drawn(load_split(images, base.seed, "val"), base.seed, evaluate.val_images),
        evaluate,
        base.seed,
        base.torch_device(),
    )
    rows = evaluation_rows(
        "evaluate", base.ghn, file_digest(weights), measure, targets(architectures), fanout
    )
    write_rows(paths.EVALUATION, rows, COLUMNS)
    summary = summarise(rows, 1 / measure.images.num_classes)
    write_summary(summary, rows, evaluate.bins)
    good = sound(rows)
    write_metrics(
        "evaluate",
        {
            "networks": len(rows),
            "failed": len(failures(rows)),
            "predicted": float(np.mean([row["accuracy"] for row in good])) if good else None,
            "random": float(np.mean([row["randinit_accuracy"] for row in good])) if good else None,
        },
    )
    stage.log_metrics(
        {
            f"{split}/{key}": value
            for split, entry in summary.items()
            for key, value in entry.items()
        }
    )
    for path in (paths.EVALUATION, paths.EVALUATION_SUMMARY, HISTOGRAM):
        stage.log_artifact(path)


def evaluation_rows(
    title: str,
    ghn: str,
    weights: str,
    measure: Evaluate,
    chosen: Sequence[Target],
    fanout: FanOut,
) -> list[Row]:
    """A row per architecture, those that were made before from the cache.

    Args:
        title: of the progress bar.
        ghn: name of the hypernetwork.
        weights: digest of its content.
        measure: with the hypernetwork, images and settings.
        chosen: the architectures.
        fanout: where to compute.
    """
    contents = {target: architecture_content(target.id) for target in chosen}
    data = digest(
        weights, *((part.digest, part.mean, part.std) for part in (measure.images, measure.val))
    )
    settings = measure.config.model_dump(mode="json", exclude={"bins"})
    common = digest(data, settings, measure.seed, ghn, code_digest("flows.stages.evaluate"))
    work = Work(
        title=title,
        items=list(contents),
        measure=measure,
        key=lambda target: digest(common, contents[target]),
        head=lambda target: identity(
            target.id, target.split, ghn, measure.seed, digest(data, contents[target])
        ),
    )
    with RowCache(paths.CACHE / "evaluate.jsonl") as cache:
        return work.rows(cache, fanout)


def drawn(images: ImageTensors, seed: int, n: int | None) -> ImageTensors:
    """The images in an order drawn by seed, or the first `n` of them."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed), device="cpu")
    return images.subset(order[:n])


def summarise(rows: Sequence[Row], chance: float) -> dict[str, dict[str, float]]:
    """Per split: mean, standard deviation over architectures, best and top-10 mean, predicted and
    random; errors.

    Accuracies are fractions; the split `deepnets` pools the five splits of DeepNets-1M.
    """
    summary: dict[str, dict[str, float]] = {}
    for split, members in _by_split(rows).items():
        good = sound(members)
        entry: dict[str, float] = {
            "architectures": len(members),
            "errors": len(failures(members)),
            "chance": chance,
        }
        for prefix in ("", "randinit_") if good else ():
            accuracy = np.sort([row[f"{prefix}accuracy"] for row in good])[::-1]
            entry |= {
                f"{prefix}mean": round(float(accuracy.mean()), 5),
                f"{prefix}std": round(float(accuracy.std()), 5),
                f"{prefix}best": round(float(accuracy[0]), 5),
                f"{prefix}top10": round(float(accuracy[:10].mean()), 5),
            }
        summary[split] = entry
    return summary


def write_summary(summary: dict[str, dict[str, float]], rows: Sequence[Row], bins: int) -> None:
    """Writes the metrics and the histogram that DVC shows."""
    with atomic_path(paths.EVALUATION_SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    edges = np.linspace(0, 1, bins + 1)
    lines = ["split,init,accuracy,architectures"]
    for split, found in _by_split(rows).items():
        members = sound(found)
        for init, column in (("predicted", "accuracy"), ("random", "randinit_accuracy")):
            counts, _ = np.histogram([row[column] for row in members], edges)
            lines += [
                f"{split},{init},{centre:.4f},{n}"
                for centre, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)
            ]
    with atomic_path(HISTOGRAM) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _by_split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each split, and as `deepnets` those of all splits of DeepNets-1M."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["split"]].append(row)
        if row["split"] != TORCHVISION:
            groups["deepnets"].append(row)
    return groups
