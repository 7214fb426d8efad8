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
from pydantic import BaseModel, ConfigDict, Field

from flows.networks.build import build_network
from flows.networks.targets import Target, targets
from flows.rows.provenance import dvc_hash
from flows.rows.results import Row, digest, write_rows
from flows.rows.sweep import Provenance, failures, report_failures, sweep
from flows.settings import paths
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.params import Params
    from flows.tracking.run import StageRun
    from ghn.models import GHN

CODE = ("ghn", "datasets/deepnets", "flows/stages/predict.py", "flows/networks")

COLUMNS: dict[str, pa.DataType] = {
    "parameters": pa.int64(),  # numbers in the network
    "predicted": pa.int64(),  # of these, predicted by the hypernetwork
    "unpredicted": pa.list_(pa.string()),  # names of the tensors that keep their initialisation
    "nodes": pa.int64(),
    "edges": pa.int64(),
    "param_norm": pa.float64(),
    "graph_seconds": pa.float64(),
    "predict_seconds": pa.float64(),
    "file": pa.string(),  # of the parameters, if they were saved
}


class PredictConfig(BaseModel):
    """Section `predict` of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    save: bool = Field(
        default=False, description="write each state dict as safetensors below results/predicted/"
    )


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
            "file": self._save(target, state),
        }

    def _save(self, target: Target, state: dict[str, Any]) -> str | None:
        if self.save_to is None:
            return None
        from safetensors.torch import save_file

        path = self.save_to / f"{target.id}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
        return path.as_posix()


def run(params: Params, stage: StageRun) -> None:
    """Predicts all architectures of `params.architectures` and writes
    results/predictions.parquet.
    """
    from ghn import from_pretrained

    weights = paths.weights(params.base.ghn)
    chosen = targets(params.architectures)
    save_to = paths.RESULTS / "predicted" if params.predict.save else None
    measure = Predict(from_pretrained(weights), params.images.image_size, save_to)
    data_hash = digest(dvc_hash(weights), dvc_hash(paths.DEEPNETS))
    rows = sweep(
        "predict",
        chosen,
        measure,
        Provenance(params.base.ghn, params.base.seed, data_hash),
        {"image_size": params.images.image_size, "save": params.predict.save},
        params.fanout,
        CODE,
    )
    write_rows(paths.PREDICTIONS, rows, COLUMNS)
    report_failures("predict", rows)
    good = [row for row in rows if row["error"] is None]
    stage.log_metrics(
        {
            "architectures": len(rows),
            "errors": len(failures(rows)),
            "graph_seconds": sum(row["graph_seconds"] for row in good),
            "predict_seconds": sum(row["predict_seconds"] for row in good),
            "parameters_predicted": sum(row["predicted"] for row in good),
        }
    )
    stage.log_artifact(paths.PREDICTIONS)
