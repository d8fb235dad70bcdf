"""Attention rollout (Abnar and Zuidema, arXiv 2005.00928): what reaches the CLS token from each
patch through all blocks up to one.

    A'_l = (A_l + I) / 2,   rollout_L = A'_L A'_{L-1} ... A'_0,   the CLS row of it,

A_l the attention of block l, its heads reduced to one (the mean as published, or the maximum, whose
rows are brought back to a sum of 1). The CLS row is a row vector times those matrices, so it is
taken from the left: no product of two T x T matrices, and of each block's attention only a few rows
at a time. The vectors of all wanted blocks go down together.

Shapes: B images, H heads, T tokens, L wanted blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gtacli.models import timm_blocks
from gtacli.models.heads import row_logits
from gtacli.models.tap import Request, Tap, TappedViT, absolute_layers, require_cls

CHUNK = 1 << 25
"""Entries of attention (heads x rows x tokens) of an image that exist at a time: 128 MB."""


@torch.no_grad()
def rollout(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[int] | str = (-1,),
    heads: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Attention rolled out from the first block to each of `layers`.

    Args:
        model: a timm ViT with a CLS token.
        images: (B, 3, h, w), already normalised.
        layers: block numbers such as (-1,), or "all" or "last".
        heads: how each block's heads are reduced.

    Returns: (B, L, gh, gw) fp32, the blocks in ascending order: shares of the CLS row that fall on
    the patches (they sum to at most 1; the rest lies on prefix tokens).

    Raises UsageError for a model that cannot be tapped, a block that it does not have, or a model
    without a CLS token.
    """
    timm_blocks.check(model)
    require_cls(model, "rollout", "no query's row can be rolled out")
    wanted = absolute_layers(layers, len(cast(nn.ModuleList, model.blocks)))
    below = tuple(range(wanted[-1] + 1))
    tapped = TappedViT(model, Request(below, rows="all", output=False))
    taps = tapped.read(tapped(images), images.shape).taps
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
    """rows (B, L, T) times the block's attention (B, T, T)."""
    q, k = tap.q_k
    step = max(1, CHUNK // (q.shape[1] * q.shape[2]))
    out = torch.zeros_like(rows_BLT)
    for b in range(len(q)):  # one image at a time: so the memory does not grow with the batch
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
