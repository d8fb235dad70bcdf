"""Split a joint projection into queries, keys and values; compute the CLS row's logits.

Autograd would assemble the gradient of the joint projection in three passes (a stack, a layout
copy, and one more for the gradient of the logits with respect to the keys). One function with all
outputs fills it in one pass, so a tapped step costs no more than timm's untapped one.

Shapes: B images, T tokens, H heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def row_logits(q_BHRD: Tensor, k_BHTD: Tensor, scale: float) -> Tensor:
    """Return attention logits (B, H, R, T) in fp32, for q and k of any precision.

    In lower precision a penalty on differences of logits would consist of rounding errors.
    """
    with torch.autocast(q_BHRD.device.type, enabled=False):
        q, k = q_BHRD.float() * scale, k_BHTD.float()
        if q.shape[2] > 1:
            return q @ k.transpose(-2, -1)
        return _one_row(_columns(q[:, :, 0]), k.transpose(1, 2).flatten(2))


def _columns(q_BHD: Tensor) -> Tensor:
    """Return (B, H D, H): each head's query in its own column, zeros elsewhere.

    One product with the keys in their memory layout (B, T, H D) then gives the rows of all heads.
    It multiplies zeros, but `q @ k^T` would first copy every key to (B H, T, D).
    """
    return torch.diag_embed(q_BHD.transpose(1, 2), dim1=1, dim2=3).flatten(1, 2)


def _one_row(columns_BCH: Tensor, k_BTC: Tensor) -> Tensor:
    return torch.bmm(k_BTC, columns_BCH).transpose(1, 2).unsqueeze(2)


def split_heads(qkv_BTC: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (q, k, v, row): views (B, H, T, D) and the first token's logits (B, H, 1, T) in fp32.

    The gradient of the joint projection is assembled in one pass.
    """
    cpu_bf16 = qkv_BTC.device.type == "cpu" and qkv_BTC.dtype == torch.bfloat16
    if torch.compiler.is_compiling() or not (cpu_bf16 or qkv_BTC.dtype == torch.float32):
        # Inductor fuses the passes itself; on a GPU other precisions need copies anyway.
        q, k, v = qkv_views(qkv_BTC, heads)
        return q, k, v, row_logits(q[:, :, :1], k, scale)
    with torch.autocast(qkv_BTC.device.type, enabled=False):  # which would round the row
        return _SplitHeads.apply(qkv_BTC, heads, scale)


def qkv_views(qkv_BTC: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v (B, H, T, D) as views of their joint projection (B, T, 3 H D)."""
    q, k, v = qkv_BTC.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, ...]:
        ctx.save_for_backward(qkv)
        ctx.heads, ctx.scale = heads, scale
        ctx.set_materialize_grads(False)
        q, k, v = qkv_views(qkv, heads)
        width = qkv.shape[-1] // 3
        row = _one_row(_columns(q[:, :, 0].float() * scale), qkv[..., width : 2 * width].float())
        return q, k, v, row

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        grad = torch.empty_like(qkv)
        for part, given in zip(qkv_views(grad, ctx.heads), grads[:3], strict=True):
            if given is None:
                part.zero_()
            else:
                part.copy_(given)
        row = grads[3]
        if row is not None:
            width = qkv.shape[-1] // 3
            q = qkv[:, 0, :width].float().unflatten(-1, (ctx.heads, -1))
            k, grad_k = qkv[..., width : 2 * width].float(), grad[..., width : 2 * width]
            row_BTH, columns = row.squeeze(2).transpose(1, 2), _columns(q * ctx.scale)
            if grad.dtype == torch.float32:
                grad_k.baddbmm_(row_BTH, columns.transpose(1, 2))
            else:
                grad_k.add_(torch.bmm(row_BTH, columns.transpose(1, 2)))
            products = torch.bmm(k.transpose(1, 2), row_BTH).unflatten(1, (ctx.heads, -1))
            own = products.diagonal(dim1=1, dim2=3).transpose(1, 2)  # (B, H, D)
            grad[:, 0, :width].add_(own.flatten(1), alpha=ctx.scale)
        return grad, None, None
