"""Leave-one-out predictions of a ridge classifier, in closed form.

A ridge regression to labels of 0 and 1, whose intercept is not penalized, predicts y = H Y with

    H = 1 1^T / N + K (K + p I)^-1,   K the centered kernel of the features.

Without image i it would predict y_i - (y_i - yhat_i) / (1 - H_ii) for that image (Allen's PRESS,
1974; Rifkin and Lippert, 2007), so N fits cost one inverse.

Shapes: N images, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

PENALTY = 0.1
"""Penalty as a fraction of the kernel's mean diagonal."""


def kernel_of(features: Tensor) -> Tensor:
    """Return the linear kernel (N, N) of features (N, C), centered, with a mean diagonal of 1.

    Kernels of several features, all of equal weight thus, add up to that of their concatenation.
    """
    x = features.double()
    x = x - x.mean(0)
    kernel = x @ x.T
    scale = kernel.diagonal().mean()
    return kernel / scale if scale > 0 else kernel


def leave_one_out(kernel: Tensor, targets: Tensor, penalty: float = PENALTY) -> Tensor:
    """Return the scores (N, K) of each image by the fit to all other images.

    Args:
        kernel: (N, N) float64; it is centered here.
        targets: (N, K) zeros and ones.
        penalty: relative to the mean diagonal of the centered kernel, which is taken from all
            images.
    """
    n = len(targets)
    identity = torch.eye(n, dtype=kernel.dtype)
    mean = torch.full_like(identity, 1 / n)
    centered = (identity - mean) @ kernel @ (identity - mean)
    scale = float(centered.diagonal().mean()) or 1.0  # features that do not vary
    regularized = centered + penalty * scale * identity
    hat = mean + torch.linalg.solve(regularized, centered)
    targets = targets.to(kernel.dtype)
    return targets - (targets - hat @ targets) / (1 - hat.diagonal())[:, None]
