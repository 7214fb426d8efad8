"""Stage predict: the hypernetwork predicts the parameters of every evaluation architecture (900 +
74).

A row says how large the network is, how much of it was predicted, how long graph and prediction
took, and the L2 norm of all parameters (the param-norm of paper table 20's published data). The
parameters themselves are written on request only (`predict.save`): they take seconds to make and
tens of gigabytes to keep.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from flows.networks.build import build_network
from flows.networks.content import architecture_content
from flows.networks.targets import Target, targets
from flows.rows.cache import RowCache
from flows.rows.code import code_digest
from flows.rows.digest import digest, file_digest
from flows.rows.engine import Work
from flows.rows.metrics import write_metrics
from flows.rows.schema import Row, failures, identity, sound, write_rows
from flows.settings import paths
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.base import BaseConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesConfig
from flows.settings.predict import PredictConfig
from ghn.files import atomic_path, sha256

if TYPE_CHECKING:
    from flows.tracking.run import StageRun
    from ghn.models import GHN

COLUMNS: dict[str, pa.DataType] = {
    "parameters": pa.int64(),  # numbers in the network
    "predicted": pa.int64(),  # of these, predicted by the hypernetwork
    "unpredicted": pa.list_(pa.string()),  # names of the tensors that keep their initialisation
    "nodes": pa.int64(),
    "edges": pa.int64(),
    "param_norm": pa.float64(),
    "file": pa.string(),  # of the parameters, if they were saved
    "sha256": pa.string(),  # of that file
}

PREDICTED = paths.RESULTS / "predicted"
"""State dicts, where `predict.save` asks for them."""


@dataclass(frozen=True)
class Predict:
    """Predicts one architecture; travels to the workers."""

    ghn: GHN
    image_size: int
    save_to: Path | None

    @torch.no_grad()
    def __call__(self, target: Target) -> Row:
        """The columns of the row of `target`."""
        import ghn.architectures  # noqa: F401, imports torchvision: not a part of the first network's time

        started = time.perf_counter()
        model, graph = build_network(
            target, self.ghn.config.num_classes, self.image_size, device="meta"
        )
        _ = graph.distance
        built = time.perf_counter()
        state = self.ghn.predict(model, graph)
        done = time.perf_counter()
        norm = math.sqrt(sum(float(tensor.norm()) ** 2 for tensor in state.values()))
        if not math.isfinite(norm):
            bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
            raise FloatingPointError(f"predicted parameters are not finite: {', '.join(bad[:5])}")
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "predicted": sum(tensor.numel() for tensor in state.values()),
            "unpredicted": [name for name, _ in model.named_parameters() if name not in state],
            "nodes": graph.n_nodes,
            "edges": len(graph.edges),
            "param_norm": norm,
            "graph_seconds": built - started,
            "predict_seconds": done - built,
            **self._save(target, state),
        }

    def _save(self, target: Target, state: dict[str, Any]) -> Row:
        """The columns that say where the state dict was written, if it was."""
        if self.save_to is None:
            return {"file": None, "sha256": None}
        from safetensors.torch import save_file

        path = self.save_to / f"{target.id}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
        return {"file": path.as_posix(), "sha256": sha256(path)}


def run(
    base: BaseConfig,
    fanout: FanOut,
    images: ImagesConfig,
    architectures: ArchitecturesConfig,
    predict: PredictConfig,
    stage: StageRun,
) -> None:
    """Predicts all architectures of section `architectures` and writes
    results/predictions.parquet, and results/predicted/ if asked to.
    """
    from ghn import from_pretrained

    weights = paths.weights(base.ghn)
    hypernetwork, content = from_pretrained(weights), file_digest(weights)
    save_to = PREDICTED if predict.save else None
    common = digest(
        content, images.image_size, predict.model_dump(), code_digest("flows.stages.predict")
    )
    contents = {target: architecture_content(target.id) for target in targets(architectures)}
    work = Work(
        title="predict",
        items=list(contents),
        measure=Predict(hypernetwork, images.image_size, save_to),
        key=lambda target: digest(common, base.ghn, base.seed, contents[target]),
        head=lambda target: identity(
            target.id, target.split, base.ghn, base.seed, digest(content, contents[target])
        ),
    )
    with RowCache(paths.CACHE / "predict.jsonl") as cache:
        rows = work.rows(cache, fanout, is_whole=_saved)
    write_rows(paths.PREDICTIONS, rows, COLUMNS)
    _keep_only({row["file"] for row in rows if row.get("file") is not None})
    good = sound(rows)
    stage.log_metrics(
        {
            "architectures": len(rows),
            "errors": len(failures(rows)),
            "graph_seconds": sum(row["graph_seconds"] for row in good),
            "predict_seconds": sum(row["predict_seconds"] for row in good),
            "parameters_predicted": sum(row["predicted"] for row in good),
        }
    )
    total = sum(row["parameters"] for row in good)
    predicted = sum(row["predicted"] for row in good)
    write_metrics(
        "predict",
        {
            "networks": len(rows),
            "failed": len(failures(rows)),
            "share": predicted / total if total else None,
        },
    )
    stage.log_artifact(paths.PREDICTIONS)


def _saved(rows: list[Row]) -> bool:
    """Whether the files that rows name are there as they were written."""
    return all(
        row["file"] is None or (Path(row["file"]).exists() and sha256(row["file"]) == row["sha256"])
        for row in rows
    )


def _keep_only(files: set[str]) -> None:
    """Removes what an earlier run saved and this one did not: the directory is an output."""
    PREDICTED.mkdir(parents=True, exist_ok=True)
    for path in PREDICTED.rglob("*"):
        if path.is_file() and path.as_posix() not in files:
            path.unlink()
