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
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from flows.networks.build import build_network, forward_gmacs
from flows.networks.targets import Target, targets
from flows.rows.answers import pack
from flows.rows.provenance import dvc_hash
from flows.rows.results import Row, digest, finite, write_rows
from flows.rows.sweep import Provenance, failures, report_failures, sweep
from flows.settings import paths
from ghn.files import atomic_path
from ghn.predict import batch_statistics

if TYPE_CHECKING:
    from datasets.images import ImageTensors
    from flows.params import Params
    from flows.tracking.run import StageRun
    from ghn.models import GHN

CODE = ("ghn", "datasets", "flows/stages/evaluate.py", "flows/networks")

COLUMNS: dict[str, pa.DataType] = {
    "accuracy": pa.float64(),  # fraction of images whose class is ranked first
    "top5": pa.float64(),  # among the first five
    "loss": pa.float64(),  # mean cross-entropy; null where it is not finite
    "randinit_accuracy": pa.float64(),
    "randinit_top5": pa.float64(),
    "randinit_loss": pa.float64(),
    "images": pa.int64(),
    "correct": pa.string(),  # whether each of these images was right (`flows.rows.answers`)
    "randinit_correct": pa.string(),
    "settings": pa.string(),  # JSON: what two rows must share to be compared
    "parameters": pa.int64(),
    "gmacs": (
        pa.float64()
    ),  # 10^9 multiply-accumulates of one image's forward pass; DeepNets-1M: within a quarter
    "seconds": pa.float64(),
}

SUMMARY = paths.RESULTS / "evaluation.json"
HISTOGRAM = paths.RESULTS / "evaluation_histogram.csv"
"""What `dvc metrics` and `dvc plots` show."""


class EvaluateConfig(BaseModel):
    """Section `evaluate` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int | None = Field(
        default=None, ge=2, description="so many of the test images, drawn by seed; null: all"
    )
    batch_size: int = Field(
        default=64, ge=2, description="batch norm uses the statistics of a batch"
    )
    max_gmacs: float | None = Field(
        default=None,
        gt=0,
        description=(
            "10^9 multiply-accumulates to spend on a network's accuracy: larger networks see fewer"
            " images; null: no bound"
        ),
    )
    min_images: int = Field(
        default=32, ge=2, description="images that every network sees, whatever it costs"
    )
    bins: int = Field(default=20, ge=2, le=100, description="bins of the accuracy histogram")


@dataclass(frozen=True)
class Score:
    """Accuracy of one network on the batches, and whether it is right on each of their images."""

    accuracy: float
    top5: float
    loss: float | None
    right: NDArray[np.bool_]


@torch.no_grad()
def score(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Score:
    """Evaluates `model` (logits (B, classes) from images (B, 3, S, S)) on batches of images and
    labels (B,).
    """
    top5 = n = 0
    loss = 0.0
    right: list[Tensor] = []
    with batch_statistics(model):
        for images, labels in batches:
            logits = model(images)
            logits = logits if isinstance(logits, Tensor) else logits[0]  # auxiliary heads
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            right.append(best[:, 0])
            top5 += int(best.any(dim=1).sum())
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            n += len(labels)
    first = torch.cat(right).cpu().numpy()
    return Score(int(first.sum()) / n, top5 / n, finite(loss / n), first)


@dataclass(frozen=True)
class Evaluate:
    """Evaluates one architecture, predicted and random; travels to the workers."""

    ghn: GHN
    images: ImageTensors
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
        batches = self.batches(cost)
        random = score(model, batches)
        predicted = score(ghn(model, graph), batches)
        return {
            "accuracy": predicted.accuracy,
            "top5": predicted.top5,
            "loss": predicted.loss,
            "randinit_accuracy": random.accuracy,
            "randinit_top5": random.top5,
            "randinit_loss": random.loss,
            "images": sum(len(labels) for _, labels in batches),
            "correct": pack(predicted.right),
            "randinit_correct": pack(random.right),
            "settings": self.settings(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "gmacs": cost,
            "seconds": time.perf_counter() - started,
        }

    def settings(self) -> str:
        """What the row depends on besides hypernetwork and architecture, as JSON."""
        chosen = self.config.model_dump(include={"batch_size", "max_gmacs", "min_images"})
        images = {"images": len(self.images), "image_digest": self.images.digest[:16]}
        return json.dumps({**chosen, **images, "seed": self.seed}, sort_keys=True)

    def batches(self, cost: float) -> list[tuple[Tensor, Tensor]]:
        """The batches that a network of `cost` GMACs is measured on: all images, or the first so
        many it affords.
        """
        n = len(self.images)
        if self.config.max_gmacs is not None:
            n = min(n, max(self.config.min_images, int(self.config.max_gmacs / cost)))
        images = self.images.subset(range(n))
        batches = list(
            images.batches(
                self.config.batch_size, shuffle=False, drop_last=False, device=self.device
            )
        )
        if len(batches[-1][1]) == 1:  # one image has no statistics
            del batches[-1]
        return batches


def run(params: Params, stage: StageRun) -> None:
    """Evaluates all architectures of `params.architectures` and writes
    results/evaluation.{parquet,json}.
    """
    from ghn import from_pretrained

    weights = paths.weights(params.base.ghn)
    images = test_images(params)
    config = params.evaluate
    hypernetwork = from_pretrained(weights)
    measure = Evaluate(hypernetwork, images, config, params.base.seed, params.base.torch_device())
    rows = sweep(
        "evaluate",
        targets(params.architectures),
        measure,
        Provenance(
            params.base.ghn,
            params.base.seed,
            digest(dvc_hash(weights), dvc_hash(paths.DEEPNETS), images.digest),
        ),
        config.model_dump(include={"batch_size", "max_gmacs", "min_images"}),
        params.fanout,
        CODE,
    )
    write_rows(paths.EVALUATION, rows, COLUMNS)
    report_failures("evaluate", rows)
    summary = summarise(rows, 1 / images.num_classes)
    write_summary(summary, rows, config.bins)
    stage.log_metrics(
        {
            f"{split}/{key}": value
            for split, entry in summary.items()
            for key, value in entry.items()
        }
    )
    for path in (paths.EVALUATION, SUMMARY, HISTOGRAM):
        stage.log_artifact(path)


def test_images(params: Params) -> ImageTensors:
    """The test images of `images.name` in an order drawn by seed, or the first `evaluate.images` of
    them.
    """
    from flows.stages.images import load_split

    images = load_split(params, "test")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(params.base.seed))
    return images.subset(order[: params.evaluate.images])


def summarise(rows: Sequence[Row], chance: float) -> dict[str, dict[str, float]]:
    """Per split: mean, standard deviation over architectures, best and top-10 mean, predicted and
    random; errors.

    Accuracies are fractions; the split `deepnets` pools the five splits of DeepNets-1M.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["split"]].append(row)
        if row["split"] != "torchvision":
            groups["deepnets"].append(row)
    summary: dict[str, dict[str, float]] = {}
    for split, members in groups.items():
        good = [row for row in members if row["error"] is None]
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
    with atomic_path(SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    edges = np.linspace(0, 1, bins + 1)
    lines = ["split,init,accuracy,architectures"]
    for split in summary:
        members = [r for r in rows if r["error"] is None and r["split"] in (split, *_pooled(split))]
        for init, column in (("predicted", "accuracy"), ("random", "randinit_accuracy")):
            counts, _ = np.histogram([row[column] for row in members], edges)
            lines += [
                f"{split},{init},{centre:.4f},{n}"
                for centre, n in zip((edges[1:] + edges[:-1]) / 2, counts, strict=True)
            ]
    with atomic_path(HISTOGRAM) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _pooled(split: str) -> tuple[str, ...]:
    return ("test", "wide", "deep", "dense", "bnfree") if split == "deepnets" else ()
