"""The distance of two Gram matrices, from the smaller of two products.

With D = X - Y and S = X + Y, for tokens X, Y (N, C),

    X X' - Y Y' = (D S' + S D') / 2,
    ||X X' - Y Y'||^2 = (<D'D, S'S> + <D'S, S'D>) / 2.

The first line takes one N x N product, the second three C x C ones, less work and memory from
N = 3 C on. Near the source each term is of second order in D, while in the textbook's expansion
||X'X||^2 - 2 ||X'Y||^2 + ||Y'Y||^2 large terms cancel, and rounding in fp32 hides the distance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gram_distance(x_BNC: Tensor, y_BNE: Tensor) -> Tensor:
    """Return the mean squared difference of two images' cosine similarities, a scalar in fp32.

    Args:
        x_BNC, y_BNE: tokens of B images; their widths may differ.
    """
    with torch.autocast(x_BNC.device.type, enabled=False):
        x, y = F.normalize(x_BNC.float(), dim=-1), F.normalize(y_BNE.float(), dim=-1)
        if x.shape != y.shape:
            return (x @ x.mT - y @ y.mT).square().mean()
        difference, total = x - y, x + y
        if x.shape[1] < 3 * x.shape[2]:
            return by_tokens(difference, total)
        return by_channels(difference, total)


def by_tokens(difference_BNC: Tensor, total_BNC: Tensor) -> Tensor:
    """Compute the distance by one N x N product for each image."""
    product = difference_BNC @ total_BNC.mT
    return ((product + product.mT) / 2).square().mean()


def by_channels(difference_BNC: Tensor, total_BNC: Tensor) -> Tensor:
    """Compute the distance by three C x C products for each image."""
    d, s = difference_BNC, total_BNC
    mixed = d.mT @ s
    squares = ((d.mT @ d) * (s.mT @ s) + mixed * mixed.mT).sum((-2, -1)) / 2
    return squares.clamp_min(0).mean() / d.shape[1] ** 2
