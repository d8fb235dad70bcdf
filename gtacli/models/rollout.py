"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928).

The contribution of each patch to the CLS token through all blocks up to block L is the CLS row of

    rollout_L = A'_L A'_{L-1} ... A'_0,   A'_l = (A_l + I) / 2,

with A_l the attention of block l, its heads reduced to one (the mean as published, or the maximum
with rows rescaled to sum 1). The row vector is multiplied by the matrices from the left: no product
of two T x T matrices is needed, and only a few rows of each block's attention exist at a time. The
vectors of all requested blocks are multiplied together.

Shapes: B images, H heads, T tokens, L requested blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gtacli.models import timm_blocks
from gtacli.models.qkv import row_logits
from gtacli.models.tap import Request, Tap, TappedViT, absolute_layers, require_cls

CHUNK = 1 << 25
"""Largest number of attention entries (heads x rows x tokens) in memory: 128 MB."""


@torch.no_grad()
def rollout(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[int] | str = (-1,),
    heads: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Compute the attention rollout from the first block to each of `layers`.

    Args:
        model: a timm ViT with a CLS token.
        images: (B, 3, h, w), already normalized.
        layers: block numbers such as (-1,), or "all" or "last".
        heads: reduction of each block's heads.

    Returns: (B, L, gh, gw) fp32, blocks in ascending order: the patch columns of the CLS row, which
    sum to at most 1 (the rest is on prefix tokens).

    Raises UsageError (option "model") for an unsupported model or one without a CLS token, and for
    a block that it does not have.
    """
    timm_blocks.check(model)
    require_cls(model, "model", "choose another kind of map")
    wanted = absolute_layers(layers, len(cast(nn.ModuleList, model.blocks)))
    below = tuple(range(wanted[-1] + 1))
    tapped = TappedViT(model, Request(below, rows="all", output=False))
    taps = tapped.unpack(tapped(images), images.shape).taps
    cls = images.new_zeros((len(images), 1, taps[0].q_k[1].shape[2]), dtype=torch.float32)
    cls[..., 0] = 1
    rows = cls[:, :0]
    for layer in reversed(below):
        if layer in wanted:
            rows = torch.cat((cls, rows), dim=1)
        rows = (rows + _through(rows, taps.pop(layer), heads)) / 2
    grid = timm_blocks.grid(model, (images.shape[-2], images.shape[-1]))
    return rows[..., tapped.num_prefix_tokens :].unflatten(-1, grid)


def _through(rows_BLT: Tensor, tap: Tap, heads: str) -> Tensor:
    """Multiply rows (B, L, T) by the block's attention (B, T, T)."""
    q, k = tap.q_k
    step = max(1, CHUNK // (q.shape[1] * q.shape[2]))
    out = torch.zeros_like(rows_BLT)
    for b in range(len(q)):  # one at a time, so that the memory does not grow with the batch
        for start in range(0, q.shape[2], step):
            part = slice(start, start + step)
            attention = row_logits(q[b : b + 1, :, part], k[b : b + 1], tap.scale).softmax(-1)
            if heads == "mean":
                reduced = attention.mean(1)
            else:
                reduced = attention.amax(1)
                reduced /= reduced.sum(-1, keepdim=True)
            out[b : b + 1].baddbmm_(rows_BLT[b : b + 1, :, part], reduced)
    return out
