"""Self-attention over the pixels of small maps, as a CPU is quick to differentiate it.

The maps of DeepNets have a hundred and some tokens and heads of 4 to 16 channels. Matrix products
with such a thin matrix are slow if the thin side is that of columns, so queries, keys and values
are kept with tokens as columns. A few heads are worked on at a time, in memory that stays in the
cache; the backward pass computes the weights once more, as fused attention does, so that what is
kept is linear in the number of tokens.

Shape legend: B images, H heads, T tokens, D channels of a head, G = B * H, g of them at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 2**18
"""Weights that are in the works at a time: a megabyte."""


def attend(qkv_BT3HD: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v of each image and head.

    Returns:
        (B, T, H * D).
    """
    b, t, _, heads, d = qkv_BT3HD.shape
    qkv_3GDT = qkv_BT3HD.permute(2, 0, 3, 4, 1).reshape(3, b * heads, d, t)
    out_GDT: Tensor = _Attention.apply(qkv_3GDT)
    return out_GDT.view(b, heads * d, t).mT


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_3GDT: Tensor) -> Tensor:
        out_GDT = torch.empty_like(qkv_3GDT[0])
        for (q_gDT, k_gDT, v_gDT), out_gDT in zip(_chunks(qkv_3GDT), _chunks(out_GDT), strict=True):
            torch.bmm(v_gDT, _weights(q_gDT, k_gDT).mT, out=out_gDT)
        ctx.save_for_backward(qkv_3GDT, out_GDT)
        return out_GDT

    @staticmethod
    def backward(ctx: Any, d_out_GDT: Tensor) -> Tensor:
        qkv_3GDT, out_GDT = ctx.saved_tensors
        # the gradient is to be differentiated again, as GradInit and MetaInit do
        if torch.is_grad_enabled():
            return _gradient(qkv_3GDT, d_out_GDT)
        d_qkv_3GDT = torch.empty_like(qkv_3GDT)
        # The sum of weights times their gradients, which the softmax subtracts, is also that of
        # outputs times theirs.
        shift_G1T = (d_out_GDT * out_GDT).sum(1, keepdim=True)
        scale = qkv_3GDT.shape[2] ** -0.5
        parts = (qkv_3GDT, d_qkv_3GDT, d_out_GDT, shift_G1T)
        for (q_gDT, k_gDT, v_gDT), d_qkv, d_out_gDT, shift_g1T in zip(
            *(_chunks(part) for part in parts), strict=True
        ):
            weight_gTT = _weights(q_gDT, k_gDT)
            torch.bmm(d_out_gDT, weight_gTT, out=d_qkv[2])
            d_logit_gTT = torch.bmm(d_out_gDT.mT, v_gDT).sub_(shift_g1T.mT).mul_(weight_gTT)
            torch.bmm(k_gDT, d_logit_gTT.mT, out=d_qkv[0])
            torch.bmm(q_gDT, d_logit_gTT, out=d_qkv[1])
        d_qkv_3GDT[:2].mul_(scale)
        return d_qkv_3GDT


def _gradient(qkv_3GDT: Tensor, d_out_GDT: Tensor) -> Tensor:
    """The backward pass in operations that are differentiable themselves, all heads at a time."""
    q_GDT, k_GDT, v_GDT = qkv_3GDT
    weight_GTT = _weights(q_GDT, k_GDT)
    d_weight_GTT = torch.bmm(d_out_GDT.mT, v_GDT)
    shift_GT1 = (d_weight_GTT * weight_GTT).sum(-1, keepdim=True)
    d_logit_GTT = (d_weight_GTT - shift_GT1) * weight_GTT * qkv_3GDT.shape[2] ** -0.5
    d_v_GDT = torch.bmm(d_out_GDT, weight_GTT)
    return torch.stack([torch.bmm(k_GDT, d_logit_GTT.mT), torch.bmm(q_GDT, d_logit_GTT), d_v_GDT])


def _weights(q_gDT: Tensor, k_gDT: Tensor) -> Tensor:
    return torch.softmax(torch.bmm(q_gDT.mT * q_gDT.shape[1] ** -0.5, k_gDT), dim=-1)


def _chunks(t_xGDT: Tensor) -> tuple[Tensor, ...]:
    """Along G."""
    return torch.split(t_xGDT, max(1, CHUNK // t_xGDT.shape[-1] ** 2), dim=-3)
