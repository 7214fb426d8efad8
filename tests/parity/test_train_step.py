"""One training step against reference outputs: losses, penalty, predicted norms and gradients.

The reference ran the networks in training mode without dropout, on the graphs in its own node
order, and with its rows of a padded batch (`reference_batching`).

The step is computed in double precision. In single precision the norms of gradients hang on the
processor and on the number of threads: the golden ones, too, lie up to 3.0e-3 from those that the
reference itself gives in double precision (`train_step_double.json`), ours on two processors 1.9e-3
and 3.2e-3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_batching import decode_as_reference
from safetensors.torch import load_file
from torch import Tensor, nn

from datasets.deepnets import Architecture, Network
from ghn.checkpoint.names import from_released, infer_config, to_released
from ghn.graph import Graph, Primitive
from ghn.models import GHN, Prediction
from ghn.models.batch import GraphBatch
from ghn.train import TrainConfig, meta_batch_losses

pytestmark = pytest.mark.golden
TOLERANCE = 1e-4  # of what the golden file has in single precision, before anything flows back
GOLDEN_GRADIENT = 3e-3  # that far its gradients are off
DOUBLE = 1e-6  # of the reference in double precision (the loss takes logits in single precision)


@dataclass(frozen=True)
class _Batch:
    graphs: GraphBatch
    networks: list[nn.Module]
    index: list[int]


class _ReferenceRows:
    """Decodes as the reference does, and remembers what came out."""

    def __init__(self, ghn: GHN) -> None:
        self.ghn = ghn
        self.prediction: Prediction | None = None

    def __call__(self, batch: GraphBatch) -> Prediction:
        self.prediction = decode_as_reference(self.ghn, batch)
        return self.prediction


def _graph(record: dict[str, Any], network: nn.Module) -> Graph:
    """The reference's graph in its own node order, with the shapes of `network`, which is wider
    than the record's.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    names = [name or "" for name in record["param"]]
    primitive = np.array([Primitive[name] for name in record["primitive"]], dtype=np.uint8)
    shape = np.zeros((len(names), 4), dtype=np.int32)
    for node, (name, recorded) in enumerate(zip(names, record["shape"], strict=True)):
        size = shapes[name] if name else tuple(recorded or ())
        shape[node, : len(size)] = size
    return Graph(primitive, np.array(record["edges"], dtype=np.int32), shape, names)


@pytest.fixture(scope="module")
def step(golden_root: Path) -> dict[str, Any]:
    expected = json.loads((golden_root / "train_step_a.json").read_text())
    tensors = load_file(golden_root / "train_step_a.safetensors")
    state = from_released(
        {k.removeprefix("ghn."): v for k, v in tensors.items() if k.startswith("ghn.")}
    )
    ghn = GHN(infer_config(state))
    ghn.load_state_dict(state)
    ghn.double()
    with (golden_root / "deepnets_a.jsonl").open() as file:
        records = [json.loads(line) for line in file]
    records = [records[index] for index in expected["arch_index"]]
    networks: list[nn.Module] = [
        Network(Architecture.from_dict(r["args"]), expected["C"], expected["fc_dim"], device="meta")
        for r in records
    ]
    for network in networks:
        network.train().double()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
    graphs = [_graph(record, network) for record, network in zip(records, networks, strict=True)]
    reference = _ReferenceRows(ghn)
    images = tensors["images"].to(torch.float64, memory_format=torch.channels_last)
    config = TrainConfig(meta_batch_size=len(networks), batch_size=len(images), gamma=3e-5)
    batch = _Batch(GraphBatch.from_graphs(graphs), networks, expected["arch_index"])
    losses, pending = meta_batch_losses(reference, batch, images, tensors["labels"], config)  # type: ignore[arg-type]
    pending.run()
    assert reference.prediction is not None
    return {"expected": expected, "losses": losses, "prediction": reference.prediction, "ghn": ghn}


def _close(found: Tensor | float, expected: float, what: str, tolerance: float = TOLERANCE) -> None:
    assert float(torch.as_tensor(found).detach()) == pytest.approx(expected, rel=tolerance), what


def test_loss_and_penalty(step: dict[str, Any]) -> None:
    expected, losses = step["expected"], step["losses"]
    _close(losses.loss, expected["loss"], "loss")
    _close(losses.loss, _double()["loss"], "loss", DOUBLE)
    nets = expected["nets"]
    _close(losses.cross_entropy, sum(net["ce"] for net in nets) / len(nets), "cross-entropy")
    for found, net in zip(step["prediction"].penalty("norm"), nets, strict=True):
        _close(found, net["sum_of_norms"], f"penalty of architecture {net['arch_index']}")


def test_every_predicted_tensor(step: dict[str, Any]) -> None:
    for parameters, net in zip(
        step["prediction"].parameters, step["expected"]["nets"], strict=True
    ):
        assert parameters.keys() == net["param_norms"].keys()
        for name, norm in net["param_norms"].items():
            _close(parameters[name].norm(), norm, name)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_every_gradient_of_the_hypernetwork(step: dict[str, Any], precision: str) -> None:
    gradients = to_released(
        {name: p.grad for name, p in step["ghn"].named_parameters() if p.grad is not None}
    )
    expected = (_double() if precision == "double" else step["expected"])["grad_norms"]
    tolerance = DOUBLE if precision == "double" else GOLDEN_GRADIENT
    assert gradients.keys() == expected.keys()
    largest = max(expected.values())
    for name, norm in expected.items():
        if norm < 1e-6 * largest:  # zero: attention does not see a shift of its logits
            assert gradients[name].norm() < 1e-8 * largest, name
        else:
            _close(gradients[name].norm(), norm, name, tolerance)


def _double() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("train_step_double.json").read_text())  # type: ignore[no-any-return]
