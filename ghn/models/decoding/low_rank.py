"""The low-rank decoder of LoGAH (Zhou et al., 2024, arXiv 2405.16287): two factors per tensor.

A kernel (O, I, Y, X) is the product of a factor of O * Y rows and one of I * X rows, both of `rank`
columns. Wide layers cost what their factors cost, so nothing is tiled up to `factor_length` rows.
Vectors are products too, whose second factor has one row; there is no decoder of their own and no
map to classes.

Notable:
- both factors come from one 2 * rank x rank core of the node; a row of the core becomes
  `factor_length` numbers, which fill a factor row by row. So a narrow tensor needs the first row of
  the core alone: only the rows that some tensor needs are computed;
- the layout is that of the published code. Its layer `l1`, which no output depends on, and two
  placeholder layers are left out: `unused` says how large they are.

Shape legend: G parameters of a group, D hidden features, F features of a node, R rank, L
`factor_length`, Q rows of a core, O/I output/input channels, Y/X kernel height/width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.models.config import GHNConfig
from ghn.models.decoding.costs import costs
from ghn.models.decoding.decoder import as_kernel
from ghn.models.decoding.plan import Group, Kind, Plan
from ghn.models.decoding.sliced import sliced_linear
from ghn.models.sending import send_list

Factors = tuple[Tensor, Tensor]
"""The (G, O * Y, R) and (G, I * X, R) factors of a group's tensors."""


def unused(rank: int) -> int:
    """How many more parameters the published code counts: `l1` and two placeholders."""
    return rank * rank + rank + 4


class LowRankDecoder(nn.Module):
    """Decodes all parameters: an MLP from a node to its core, a linear layer from a row of the core
    to numbers of a factor, and a product of two factors.
    """

    def __init__(self, config: GHNConfig) -> None:
        super().__init__()
        d, r = config.hidden, config.rank
        self.config = config
        self.rank, self.length = r, config.factor_length
        self.spread = nn.Linear(d, 4 * d)
        self.hidden = nn.Linear(4 * d, 8 * d)
        self.core = nn.Linear(8 * d, 2 * r * r)
        self.block = nn.Linear(r, config.factor_length)

    def forward(self, h_ND: Tensor, plan: Plan) -> Iterator[tuple[Group, Tensor]]:
        """Yields each group of tensors with its (G, ...) scaled blocks. Differentiable."""
        for group, factors in zip(
            plan.tensors, self.factors(h_ND, plan.tensors, _extents(plan.tensors)), strict=True
        ):
            yield group, _product(group, factors)

    @torch.no_grad()
    def stream(self, h_ND: Tensor, plan: Plan) -> Iterator[tuple[Group, int | None, Tensor]]:
        """Yields (group, first output channel, (G, ...) scaled blocks of some output channels), as
        `ghn.models.decoding.stream.stream` does. Of a large group only the factors exist whole.
        """
        for group in plan.tensors:
            ((a_GNR, b_GMR),) = self.factors(h_ND, [group], _extents([group]))
            outputs, height = group.channels[0], group.kernel[0]
            row = len(group) * height * b_GMR.shape[1] * b_GMR.element_size()
            step = max(1, costs(h_ND.device).chunk_bytes // row)
            if group.kind is Kind.position or step >= outputs:
                yield group, None, _product(group, (a_GNR, b_GMR))
                continue
            for first in range(0, outputs, step):
                rows = slice(first * height, min(first + step, outputs) * height)
                yield group, first, _product(group, (a_GNR[:, rows], b_GMR))

    def factors(
        self, h_ND: Tensor, groups: Sequence[Group], extents: Sequence[tuple[int, int]]
    ) -> Iterator[Factors]:
        """For each group its two factors, of as many rows as its extent says."""
        if not groups:
            return
        nodes = send_list([n for group in groups for n in group.nodes], h_ND.device)
        features_PF = F.relu(self.hidden(F.relu(self.spread(h_ND[nodes]))))
        pieces = torch.split(features_PF, [len(group) for group in groups])
        r = self.rank
        numbers = [rows * r for extent in extents for rows in extent]
        depths = [math.ceil(n / self.length) for n in numbers]
        cores = sliced_linear(
            self.core.weight,
            self.core.bias,
            (2, r, r),
            [
                (slice(i % 2, i % 2 + 1), slice(depth), slice(None))
                for i, depth in enumerate(depths)
            ],
            [piece for piece in pieces for _ in range(2)],
        )
        flat = sliced_linear(
            self.block.weight,
            self.block.bias,
            (self.length,),
            [(slice(min(n, self.length)),) for n in numbers],
            [F.relu(core).reshape(-1, r) for core in cores],
        )
        factors = [
            part.reshape(len(core), -1)[:, :n].reshape(len(core), -1, r)
            for part, core, n in zip(flat, cores, numbers, strict=True)
        ]
        yield from zip(factors[::2], factors[1::2], strict=True)


class LowRankVectors:
    """Decodes vectors by the layers of a `LowRankDecoder`; it has no parameters itself."""

    def __init__(self, decoder: LowRankDecoder) -> None:
        self.decoder = decoder

    def __call__(self, h_ND: Tensor, plan: Plan) -> Iterator[tuple[Group, Tensor, Tensor | None]]:
        """Yields each group with (G, channels) weights and biases of norms, or biases and None.
        Differentiable.

        A node makes two vectors, as in `VectorDecoder`; a bias is the second.
        """
        extents = [(2 * group.channels[0], 1) for group in plan.vectors]
        for group, (a_GNR, b_G1R) in zip(
            plan.vectors, self.decoder.factors(h_ND, plan.vectors, extents), strict=True
        ):
            first, second = (a_GNR @ b_G1R.mT).squeeze(2).chunk(2, dim=1)
            if self.decoder.config.normalize:
                first, second = 2 * torch.sigmoid(0.5 * first), torch.tanh(0.2 * second)
            if group.kind is Kind.norm:
                yield group, first, second
            else:
                yield group, second, None


def _extents(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """For each group the rows of its two factors."""
    return [
        (group.channels[0] * group.kernel[0], group.channels[1] * group.kernel[1])
        for group in groups
    ]


def _product(group: Group, factors: Factors) -> Tensor:
    """(G, ...) scaled blocks with the dimensions of the group's shape, from its factors, of which
    the first may have the rows of some output channels only.
    """
    a_GNR, b_GMR = factors
    height, width = group.kernel
    if group.scale != 1:
        a_GNR = a_GNR * group.scale
    w_GNM = a_GNR @ b_GMR.mT
    if len(group.shape) == 2:
        return w_GNM
    w_GOYM = torch.unflatten(w_GNM, 1, (-1, height))
    w_GOYIX = torch.unflatten(w_GOYM, 3, (-1, width))
    w_GOIYX = w_GOYIX.transpose(2, 3)
    if group.kind is Kind.position and len(group.shape) == 3:
        w_GTC: Tensor = w_GOIYX[:, 0].flatten(2).mT
        return w_GTC[:, None]
    return as_kernel(group, w_GOIYX)
