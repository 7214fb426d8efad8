"""The looked-up edge term is eq. 9 written out; padding changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.models import GHNConfig
from ghn.models.batch import GraphBatch
from ghn.models.message_passing.lookup import gathered, look_up
from ghn.models.message_passing.transformer import EdgeTerm, Transformer


@pytest.mark.parametrize("edge_embedding", ["both", "forward"])
def test_edge_term_is_equation_9(graphs: list, edge_embedding: str) -> None:
    torch.manual_seed(0)
    term = EdgeTerm(GHNConfig(hidden=8, heads=2, edge_embedding=edge_embedding))
    batch = GraphBatch.from_graphs(graphs)
    bias = term(batch)
    distance = batch.distance_BNN.long()
    e = term.distance(distance + 2)  # (B, N, N, D): what the paper's equation says, pair by pair
    if edge_embedding == "both":
        e = torch.cat((e, term.distance(distance.mT + 2)), dim=-1)
    expected = term.out(F.relu(term.hidden(e))).permute(0, 3, 1, 2)
    real = batch.mask_BN[:, None, None, :].expand_as(expected)
    torch.testing.assert_close(bias[real], expected[real])
    assert torch.isinf(bias[~real]).all()


@pytest.mark.parametrize("look_up", [look_up, gathered])
def test_look_up_and_its_gradient(look_up: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    table = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    code = torch.randint(0, 7, (2, 4, 5), dtype=torch.uint8)
    found = look_up(table, code)
    assert torch.equal(found, table[:, code.long()].transpose(0, 1))
    weight = torch.randn(2, 3, 4, 5)
    (gradient,) = torch.autograd.grad((found * weight).sum(), table)
    (expected,) = torch.autograd.grad((table[:, code.long()].transpose(0, 1) * weight).sum(), table)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_a_gpu_s_look_up_is_what_attention_takes_without_a_copy() -> None:
    table, code = torch.randn(3, 7), torch.randint(0, 7, (2, 21, 21), dtype=torch.uint8)
    found = gathered(table, code)
    assert torch.equal(found, look_up(table, code))
    assert found.stride(-1) == 1
    assert all(step % 16 == 0 for step in found.stride()[:-1])


@pytest.mark.parametrize("edge_embedding", ["both", "none"])
def test_fused_and_differentiable_attention_agree(graphs: list, edge_embedding: str) -> None:
    torch.manual_seed(0)
    transformer = Transformer(GHNConfig(hidden=16, heads=4, edge_embedding=edge_embedding))
    batch = GraphBatch.from_graphs(graphs)
    h_BND = torch.randn(*batch.primitive_BN.shape, 16)
    differentiable = transformer(h_BND, batch)
    with torch.no_grad():
        fused = transformer(h_BND, batch)
    real = batch.mask_BN
    torch.testing.assert_close(fused[real], differentiable[real], atol=1e-5, rtol=1e-5)
    assert differentiable.isfinite().all()


def test_sinusoids_with_a_zero_row() -> None:
    term = EdgeTerm(GHNConfig())
    term.reset_distance()
    weight = term.distance.weight
    assert weight.shape == (257, 64)
    assert (weight[0] == 0).all()
    torch.testing.assert_close(weight[3, :2], torch.tensor([0.14112, -0.98999]),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
