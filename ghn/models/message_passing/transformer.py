"""The Transformer of GHN-3: pre-norm layers whose attention sees the paths between nodes (eq. 8 and
9).

Notable: the edge term is a function of the pair of shortest paths (i to j, j to i). In a directed
acyclic graph at most one of them exists and both stop at 50, so there are 101 pairs: the term is
computed for those and looked up, where a direct reading of eq. 9 computes it for each of the N x N
pairs of nodes. All layers share it.

Shape legend: B graphs, N nodes, D hidden features, H heads, C pairs of distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ghn.graph import VIRTUAL_EDGE_CUTOFF
from ghn.models.batch import GraphBatch
from ghn.models.config import GHNConfig
from ghn.models.message_passing.lookup import look_up

MAX_DISTANCE = 255
_SHIFT = 2  # released checkpoints index the table by distance + 2


class EdgeTerm(nn.Module):
    """The edge term phi([e(i, j), e(j, i)]) of eq. 9, for every pair of distances that can
    occur.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        d = config.hidden
        self.both = config.edge_embedding == "both"
        self.distance = nn.Embedding(MAX_DISTANCE + _SHIFT, d)
        self.hidden = nn.Linear(2 * d if self.both else d, d)
        self.out = nn.Linear(d, config.heads)

    def reset_distance(self) -> None:
        """Sets the embedding of distances to sinusoids (Vaswani et al., 2017), its first row to
        zero.
        """
        rows, d = self.distance.weight.shape
        angle = torch.arange(rows)[:, None] * torch.exp(
            torch.arange(0, d, 2) * (-math.log(10000.0) / d)
        )
        with torch.no_grad():
            self.distance.weight[:, 0::2] = angle.sin()
            self.distance.weight[:, 1::2] = angle.cos()[:, : d // 2]
            self.distance.weight[0] = 0

    def forward(self, batch: GraphBatch) -> Tensor:
        """(B, H, N, N) additive attention logits; minus infinity in the columns of padding."""
        cutoff = VIRTUAL_EDGE_CUTOFF
        # Codes of pairs: 0 for no path, 1..cutoff for a path i -> j, cutoff + (1..cutoff) for a
        # path j -> i.
        length = torch.arange(cutoff + 1, device=batch.device)
        none = torch.zeros_like(length[1:])
        forward_C = torch.cat((length, none)) + _SHIFT
        backward_C = torch.cat((none[:1], none, length[1:])) + _SHIFT
        e_CD = self.distance(forward_C)
        if self.both:
            e_CD = torch.cat((e_CD, self.distance(backward_C)), dim=-1)
        logit_HC = self.out(F.relu(self.hidden(e_CD))).T
        # One more column of minus infinity serves the padding.
        table_HC = torch.cat((logit_HC, logit_HC.new_full((len(logit_HC), 1), -torch.inf)), dim=1)
        backward_BNN = batch.distance_BNN.mT
        code_BNN = torch.where(backward_BNN > 0, backward_BNN + cutoff, batch.distance_BNN)
        if len(batch.graphs) > 1:
            code_BNN = torch.where(batch.mask_BN[:, None, :], code_BNN, 2 * cutoff + 1)
        return look_up(table_HC, code_BNN)


class Attention(nn.Module):
    """Multi-head self-attention with an additive edge term (eq. 9)."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d)

    def forward(self, h_BND: Tensor, edge_BHNN: Tensor | None) -> Tensor:
        """(B, N, D) messages."""
        b, n, d = h_BND.shape
        qkv = self.qkv(h_BND).view(b, n, 3, self.heads, d // self.heads)
        q_BHNd, k_BHNd, v_BHNd = qkv.permute(2, 0, 3, 1, 4)
        if edge_BHNN is not None:
            edge_BHNN = edge_BHNN.to(q_BHNd.dtype)  # under autocast
        if edge_BHNN is not None and edge_BHNN.requires_grad and edge_BHNN.device.type == "cpu":
            # No fused kernel of a CPU has a gradient for the edge term, and PyTorch's fallback
            # guards against rows without any finite logit, which do not occur: every node sees the
            # input. (A GPU's memory-efficient one has.)
            logit_BHNN = (q_BHNd * (d // self.heads) ** -0.5) @ k_BHNd.mT + edge_BHNN
            m_BHNd = torch.softmax(logit_BHNN, dim=-1) @ v_BHNd
        else:
            m_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, attn_mask=edge_BHNN)
        out_BND: Tensor = self.out(m_BHNd.transpose(1, 2).reshape(b, n, d))
        return out_BND


class Layer(nn.Module):
    """A pre-norm Transformer layer with an MLP ratio of 4."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attention = Attention(d, heads)
        self.norm2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, 4 * d)
        self.down = nn.Linear(4 * d, d)

    def forward(self, h_BND: Tensor, edge_BHNN: Tensor | None) -> Tensor:
        """(B, N, D) updated node embeddings."""
        h_BND = h_BND + self.attention(self.norm1(h_BND), edge_BHNN)
        update_BND: Tensor = self.down(F.gelu(self.up(self.norm2(h_BND))))
        return h_BND + update_BND


class Transformer(nn.Module):
    """L layers that share one edge term."""

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        self.edge = EdgeTerm(config) if config.edge_embedding != "none" else None
        self.layers = nn.ModuleList(
            Layer(config.hidden, config.heads) for _ in range(config.layers)
        )

    def forward(self, h_BND: Tensor, batch: GraphBatch) -> Tensor:
        """(B, N, D) updated node embeddings; those of padding are arbitrary."""
        if len(batch.graphs) == 1 or h_BND.device.type != "cpu":
            return self._update(h_BND, batch)
        # On a CPU padding costs what nodes cost, and attention the square of it: each graph by
        # itself.
        parts = [
            self._update(h_BND[b : b + 1, :n], batch.single(b))[0]
            for b, n in enumerate(batch.n_nodes)
        ]
        return pad_sequence(parts, batch_first=True)

    def _update(self, h_BND: Tensor, batch: GraphBatch) -> Tensor:
        bias: Tensor | None = None
        if self.edge is not None:
            bias = self.edge(batch)
        elif len(batch.graphs) > 1:
            bias = torch.zeros_like(batch.mask_BN, dtype=h_BND.dtype).masked_fill_(
                ~batch.mask_BN, -torch.inf
            )
            bias = bias[:, None, None, :].expand(-1, 1, h_BND.shape[1], -1)
        for layer in self.layers:
            h_BND = layer(h_BND, bias)
        return h_BND
