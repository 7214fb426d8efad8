"""The message passing of GHN-1 and GHN-2, and the MLP that passes none.

Notable: the GatedGNN of Zhang et al. (2019) visits nodes one by one, first along the edges and then
against them. Nodes with no path between them do not depend on each other, so all nodes of the same
depth, of all graphs of a batch, are updated together, and a node's message is computed once when
the node is final instead of once per edge.

Shape legend: B graphs, N nodes, D hidden features, V nodes of the widest graph in a level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.graph import VIRTUAL_EDGE_CUTOFF
from ghn.models.batch import GraphBatch
from ghn.models.config import GHNConfig
from ghn.models.levels import Levels


class MLP(nn.Module):
    """Two linear layers, each with a ReLU."""

    def __init__(self, d: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(d, hidden)
        self.down = nn.Linear(hidden, d)

    def forward(self, h: Tensor, batch: GraphBatch | None = None) -> Tensor:
        """Applies to the last dimension; `batch` is not looked at."""
        return F.relu(self.down(F.relu(self.up(h))))


class GatedGNN(nn.Module):
    """One forward and one backward traversal of the graph with a gated recurrent unit shared by all
    nodes.

    The message to node v is the sum over one-hop neighbours u of MLP(h_u), and with virtual edges
    also the sum over all u with a path of length s <= 50 of MLP'(h_u) / s (Knyazev et al., 2021,
    eq. 4). With several layers (GHN-2-S, table 1) each has weights of its own and goes on from what
    the one before it made.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        d = config.hidden
        self.message = MLP(d, d // 2 if config.virtual_edges else d)
        self.virtual_message = MLP(d, d // 2) if config.virtual_edges else None
        self.gru = nn.GRUCell(d, d)
        single = config.model_copy(update={"layers": 1})
        self.later = nn.ModuleList(GatedGNN(single) for _ in range(config.layers - 1))

    def forward(self, h_BND: Tensor, batch: GraphBatch) -> Tensor:
        """(B, N, D) updated node embeddings."""
        batch = batch.with_levels()
        assert batch.levels is not None
        along, against = batch.levels
        h_BND = self._traverse(h_BND, batch.distance_BNN, along)
        h_BND = self._traverse(h_BND, batch.distance_BNN.mT, against)
        for layer in self.later:
            h_BND = layer(h_BND, batch)
        return h_BND

    def _traverse(self, h_BND: Tensor, distance_BNN: Tensor, levels: Levels) -> Tensor:
        b, n, d = h_BND.shape
        graph_B1 = torch.arange(b, device=h_BND.device)[:, None]
        # Row N, a node that is not there, fills levels up to the widest graph: it sends and
        # receives nothing.
        h_BND = F.pad(h_BND, (0, 0, 0, 1))
        distance_BNN = F.pad(distance_BNN, (0, 0, 0, 1))
        inverse = F.pad(
            1.0 / torch.arange(1, VIRTUAL_EDGE_CUTOFF + 1, device=h_BND.device), (1, 0)
        ).to(h_BND.dtype)
        message_BND = h_BND.new_zeros(b, n + 1, d)
        updated: list[Tensor] = []
        for node_BV in levels.nodes:
            h_BVD = self.gru(
                message_BND[graph_B1, node_BV].flatten(0, 1), h_BND[graph_B1, node_BV].flatten(0, 1)
            )
            h_BVD = h_BVD.view(b, -1, d).to(h_BND.dtype)
            updated.append(h_BVD)
            distance_BVN = distance_BNN[graph_B1, node_BV]
            sent_BND = (distance_BVN == 1).to(h_BND.dtype).mT @ self.message(h_BVD)
            if self.virtual_message is not None:
                sent_BND = sent_BND + inverse[distance_BVN.int()].mT @ self.virtual_message(h_BVD)
            message_BND = message_BND + F.pad(sent_BND, (0, 0, 0, 1))
        return torch.cat(updated, dim=1)[graph_B1, levels.position_BN]
