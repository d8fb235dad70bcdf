"""The attention kernel: torch's fused one, or our own where a network trains in bf16 on a CPU.

There the fused kernel's gradient takes longer in bf16 than in fp32. Ours multiplies bf16 matrices,
for a few images at a time, whose attention fits the cache, and computes it again for the gradient
instead of keeping it. For 16 images of a ViT-Tiny/16 at 224 px (one thread, AVX512-BF16, torch
2.15) a block's attention takes 6 ms instead of 12, its gradient 12 instead of 37 (25 by the fused
kernel in fp32). Logits are rounded to bf16, which the fused kernel keeps in fp32; the error of a
network's gradient stays what it is (`tests/models/test_attention_kernel.py`). Networks that are
only read stay with the fused one: masks of objects moved by a tenth of a percent of IoU.

Shapes: B images, H heads, R query rows, T tokens, D width of a head.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CACHE_BYTES = 2**20
"""Bytes of the attention that is computed at a time."""


def has_own_kernel(module: nn.Module, device: torch.device) -> bool:
    """Return whether our kernel computes the attention of a module: it trains in bf16 on a CPU."""
    return (
        module.training
        and device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.compiler.is_compiling()
    )


def attended_values(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0
) -> Tensor:
    """Return (B, H, R, D) of an attention layer from q (B, H, R, D) and k, v (B, H, T, D)."""
    if v.dtype == torch.bfloat16 and not dropout and has_own_kernel(module, v.device):
        return cast(Tensor, _CachedAttention.apply(q.to(v.dtype), k.to(v.dtype), v))
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class _CachedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        result = _like_tokens(q)
        for part in _parts(q, k):
            value = v[part].flatten(0, 1)
            attention = _attention(q[part].flatten(0, 1), k[part].flatten(0, 1))
            result[part] = torch.bmm(attention, value).view_as(q[part])
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        grads = _like_tokens(q), _like_tokens(k), _like_tokens(v)
        scale = q.shape[-1] ** -0.5
        for part in _parts(q, k):
            rows, keys, values, given = (x[part].flatten(0, 1) for x in (q, k, v, grad))
            attention = _attention(rows, keys)
            grads[2][part] = torch.bmm(attention.transpose(1, 2), given).view_as(v[part])
            # Of the softmax: P * (dP - sum(P * dP)).
            of_attention = torch.bmm(given, values.transpose(1, 2))
            of_logits = torch._softmax_backward_data(of_attention, attention, -1, attention.dtype)
            grads[0][part] = torch.bmm(of_logits, keys).mul_(scale).view_as(q[part])
            grads[1][part] = torch.bmm(of_logits.transpose(1, 2), rows).mul_(scale).view_as(k[part])
        return grads


def _attention(q: Tensor, k: Tensor) -> Tensor:
    """Return the softmax (B H, R, T) of q (B H, R, D) and k (B H, T, D)."""
    return torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)).softmax(-1)


def _parts(q: Tensor, k: Tensor) -> list[slice]:
    """Return slices of the images whose attention fits the cache."""
    images, heads, rows, _ = q.shape
    step = max(1, CACHE_BYTES // (heads * rows * k.shape[2] * q.element_size()))
    return [slice(start, start + step) for start in range(0, images, step)]


def _like_tokens(x: Tensor) -> Tensor:
    """Return an empty tensor (B, H, T, D) whose memory has the order of tokens, (B, T, H, D)."""
    b, h, t, d = x.shape
    return x.new_empty(b, t, h, d).transpose(1, 2)
