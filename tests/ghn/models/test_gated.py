"""The GatedGNN by levels is the GatedGNN node by node."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ghn.graph import Graph
from ghn.models import GHNConfig
from ghn.models.batch import GraphBatch
from ghn.models.levels import depth
from ghn.models.message_passing.gated import GatedGNN


def node_by_node(gnn: GatedGNN, h_ND: Tensor, graph: Graph) -> Tensor:
    """Eq. 4 of Knyazev et al. (2021), one node after the other, forward and backward."""
    h = list(h_ND)
    distance = graph.distance.astype(int)
    for backward in (False, True):
        nodes = range(graph.n_nodes)
        for v in reversed(nodes) if backward else nodes:
            length = distance[v, :] if backward else distance[:, v]
            message = torch.zeros_like(h[v])
            for u in nodes:
                if length[u] == 1:
                    message = message + gnn.message(h[u])
                if length[u] and gnn.virtual_message is not None:
                    message = message + gnn.virtual_message(h[u]) / length[u]
            h[v] = gnn.gru(message, h[v])
    return torch.stack(h)


@pytest.mark.parametrize("virtual_edges", [True, False])
def test_levels_equal_nodes(graphs: list[Graph], virtual_edges: bool) -> None:
    torch.manual_seed(0)
    config = GHNConfig(
        message_passing="gated",
        hidden=8,
        layers=1,
        virtual_edges=virtual_edges,
        edge_embedding="none",
    )
    gnn = GatedGNN(config).double()
    batch = GraphBatch.from_graphs(graphs)
    h_BND = torch.randn(*batch.primitive_BN.shape, 8, dtype=torch.float64, requires_grad=True)
    result = gnn(h_BND, batch)
    for b, graph in enumerate(graphs):
        expected = node_by_node(gnn, h_BND[b, : graph.n_nodes], graph)
        torch.testing.assert_close(result[b, : graph.n_nodes], expected)
    seed = torch.randn_like(result) * batch.mask_BN[..., None]
    (gradient,) = torch.autograd.grad((result * seed).sum(), h_BND)
    last = len(graphs) - 1
    n = graphs[last].n_nodes
    (expected,) = torch.autograd.grad(
        (node_by_node(gnn, h_BND[last, :n], graphs[last]) * seed[last, :n]).sum(), h_BND
    )
    torch.testing.assert_close(gradient[last, :n], expected[last, :n])


def test_depth_grows_along_edges(graphs: list[Graph]) -> None:
    for graph in graphs:
        forward, backward = depth(graph, backward=False), depth(graph, backward=True)
        source, target = graph.edges.T
        assert (forward[source] < forward[target]).all()
        assert (backward[source] > backward[target]).all()


def test_layers_go_on_from_each_other(graphs: list[Graph]) -> None:
    torch.manual_seed(0)
    config = GHNConfig(message_passing="gated", hidden=8, layers=2, edge_embedding="none")
    gnn = GatedGNN(config)
    batch = GraphBatch.from_graphs(graphs)
    h_BND = torch.randn(*batch.primitive_BN.shape, 8)
    both = gnn(h_BND, batch)
    (second,) = gnn.later
    gnn.later = torch.nn.ModuleList()
    torch.testing.assert_close(both, second(gnn(h_BND, batch), batch))
