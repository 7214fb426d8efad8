"""Small graphs and hypernetworks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ghn.graph import Graph, Primitive
from ghn.models import GHN, GHNConfig
from ghn.models.batch import GraphBatch

P = Primitive


def random_graph(seed: int, n: int = 30) -> Graph:
    """A random graph with every kind of parameter, ending in a class head of 7 classes."""
    rng = np.random.default_rng(seed)
    shapes: dict[Primitive, list[tuple[int, ...]]] = {
        P.conv: [
            (8, 3, 3, 3),
            (24, 8, 1, 1),
            (40, 24, 5, 5),
            (20, 20),
            (9, 5, 1, 7),
            (16, 12, 20, 20),
            (6, 4, 3),
        ],
        P.sep_conv: [(24, 1, 3, 3), (40, 1, 5, 5)],
        P.dil_conv: [(24, 1, 5, 5)],
        P.bias: [(8,), (24,), (40,)],
        P.bn: [(8,), (40,)],
        P.ln: [(24,)],
        P.pos_enc: [(1, 24, 14, 14), (1, 17, 40), (1, 16, 8)],
        P.max_pool: [(1, 1, 3, 3)],
        P.sum: [()],
        P.concat: [()],
        P.msa: [()],
    }
    kinds = list(shapes)
    primitive, shape, param = [P.input], [()], [""]
    for node in range(1, n - 2):
        kind = kinds[int(rng.integers(len(kinds)))]
        choice = shapes[kind][int(rng.integers(len(shapes[kind])))]
        primitive.append(kind)
        shape.append(choice)
        has_parameter = kind not in (P.max_pool, P.sum, P.concat, P.msa)
        param.append(
            f"layers.{node}.{'bias' if kind is P.bias else 'weight'}" if has_parameter else ""
        )
    primitive += [P.conv, P.bias]
    shape += [(7, 40), (7,)]
    param += ["head.weight", "head.bias"]
    edges = {(int(rng.integers(node)), node) for node in range(1, n)} | {(n - 2, n - 1)}
    edges |= {tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(n // 2)}  # type: ignore[misc]
    padded = np.zeros((n, 4), dtype=np.int32)
    for node, sizes in enumerate(shape):
        padded[node, : len(sizes)] = sizes
    return Graph(
        np.array(primitive, np.uint8),
        np.array(sorted(edges), np.int32),
        padded,
        param,
        f"random{seed}",
    )


@pytest.fixture(scope="session")
def graphs() -> list[Graph]:
    result = [random_graph(seed, n) for seed, n in enumerate((12, 40, 25))]
    for graph in result:
        graph.validate()
    return result


@pytest.fixture(scope="session")
def make_ghn() -> Callable[..., GHN]:
    """Builds a small hypernetwork; fields of its configuration as keyword arguments."""

    def make(seed: int = 0, **fields: object) -> GHN:
        torch.manual_seed(seed)
        small = {
            "hidden": 16,
            "heads": 4,
            "layers": 2,
            "num_classes": 5,
            "decoder_channels": 16,
            "decoder_kernel": 11,
        }
        return GHN(GHNConfig(**(small | fields))).eval()  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def predicted_in_place() -> Callable[[GHN, nn.Module, Graph], dict[str, Tensor]]:
    """Holds a prediction in place of a whole network against that of training, which it returns."""

    def compare(ghn: GHN, model: nn.Module, graph: Graph) -> dict[str, Tensor]:
        (expected,) = ghn(GraphBatch.from_graphs([graph])).parameters
        ghn.initialize(model, graph)
        assert ghn.reports[0].n_predicted == ghn.reports[0].n_parameters
        head = graph.param[graph.head[0]]
        for name, parameter in model.named_parameters():
            own = expected[name]
            if name == head and own.dim() == 2:  # of a convolution that is the head, too
                own = own.view_as(parameter)
            torch.testing.assert_close(parameter, own, atol=1e-5, rtol=1e-4)
        return expected

    return compare
