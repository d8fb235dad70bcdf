"""Distances between the attention logits of two networks (GTA, Seo et al., arXiv 2401.02656).

    R = || A_t - A_s ||^2,   A = q k^T / sqrt(D) before the softmax,

summed over the selected columns and averaged over query rows, heads and images. The averages and
the choice of columns are ours: the paper states the squared distance between the CLS rows.

Shapes: B images, H heads, P prefix tokens, N patches, R query rows, D width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gtacli.models.qkv import row_logits

ClsColumn = Literal["exclude", "include"]
Reduction = Literal["sum", "mean"]


def attention_distance(
    q_t: Tensor,
    k_t: Tensor,
    q_s: Tensor,
    k_s: Tensor,
    num_prefix_tokens: int,
    rows: Literal["cls", "all"] = "cls",
    center: bool = False,
    cls_column: ClsColumn = "exclude",
    reduction: Reduction = "sum",
) -> Tensor:
    """Compute the GTA distance of one block, a scalar in fp32.

    Args:
        q_t, k_t: (B, H, P+N, D) queries and keys of the target; gradients flow into them. For
            rows="cls" the queries may hold the CLS row alone (B, H, 1, D).
        q_s, k_s: the source's, of the same shapes.
        num_prefix_tokens: P; the columns of registers are never included.
        rows: the CLS token's query, or every token's. For "all" no N x N matrix is computed.
        center: subtract from each row's difference its mean over the selected columns.
        cls_column: whether the CLS token's column is included beside the patches'.
        reduction: over the columns. Rows, heads and images are always averaged.
    """
    if rows == "cls":
        scale = q_t.shape[-1] ** -0.5
        target, source = (
            select_columns(row_logits(q[:, :, :1], k, scale), num_prefix_tokens, cls_column)
            for q, k in ((q_t, k_t), (q_s, k_s))
        )
        return rows_distance(target, source, center, reduction)
    with torch.autocast(q_t.device.type, enabled=False):
        k_t, k_s = (
            select_columns(k.float(), num_prefix_tokens, cls_column, dim=-2) for k in (k_t, k_s)
        )
        total, count = _gram_distance(q_t.float(), k_t, q_s.float(), k_s, center)
        return total / (count * k_t.shape[-2] if reduction == "mean" else count)


def rows_distance(
    logits_t: Tensor, logits_s: Tensor, center: bool = False, reduction: Reduction = "sum"
) -> Tensor:
    """Compute `attention_distance` from logits (B, H, R, C) of the selected columns."""
    difference = logits_t - logits_s
    if center:
        difference = difference - difference.mean(-1, keepdim=True)
    squares = difference.square()
    return (squares.sum(-1) if reduction == "sum" else squares.mean(-1)).mean()


def select_columns(
    x: Tensor, num_prefix_tokens: int, cls_column: ClsColumn, dim: int = -1
) -> Tensor:
    """Select the patches along `dim`, and the CLS token if included; never registers."""
    patches = x.narrow(dim, num_prefix_tokens, x.shape[dim] - num_prefix_tokens)
    if cls_column == "exclude" or num_prefix_tokens == 0:
        return patches
    return torch.cat((x.narrow(dim, 0, 1), patches), dim=dim) if num_prefix_tokens > 1 else x


def _gram_distance(
    q_t: Tensor, k_t: Tensor, q_s: Tensor, k_s: Tensor, center: bool
) -> tuple[Tensor, int]:
    """Compute the distance of all rows from D x D matrices in O(N D^2) time and O(D^2) memory.

    With dQ = Q_t - Q_s and dK = K_t - K_s the difference of the logits is dQ K_s^T + Q_t dK^T, so

        ||.||_F^2 = <dQ^T dQ, K_s^T K_s> + 2 <dQ^T Q_t, K_s^T dK> + <Q_t^T Q_t, dK^T dK>.

    Close to the source every term is of second order in the differences. If q and k rotate
    together, large terms cancel, with an error of about 1e-6 of them in fp32; the clamp prevents
    negative results.

    Returns: the sum of the squares, and the number of rows.
    """
    if center:  # a row's mean over the columns is its product with the mean key
        k_t, k_s = k_t - k_t.mean(-2, keepdim=True), k_s - k_s.mean(-2, keepdim=True)
    d_q, d_k = q_t - q_s, k_t - k_s

    def inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return ((a.transpose(-2, -1) @ b) * (c.transpose(-2, -1) @ d)).sum((-2, -1))

    squares = inner(d_q, d_q, k_s, k_s) + 2 * inner(d_q, q_t, k_s, d_k) + inner(q_t, q_t, d_k, d_k)
    return squares.clamp_min(0).sum() / q_t.shape[-1], q_t[..., 0].numel()


def rows_divergence(logits_t: Tensor, logits_s: Tensor) -> Tensor:
    """Compute KL(source || target) of the softmax over the selected columns, in nats.

    Logits are (B, H, R, C); the mean over rows, heads and images is returned.
    """
    target, source = logits_t.log_softmax(-1), logits_s.log_softmax(-1)
    return (source.exp() * (source - target)).sum(-1).mean()
