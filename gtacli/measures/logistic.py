"""Logistic regression, many problems at once: few-shot draws differ in their images alone.

    min over W, b of  c * sum_i CE(W x_i + b, y_i) + ||W||^2 / 2

as scikit-learn's LogisticRegression (multinomial, l2, intercept not penalised). Böhning's bound
(1992): the Hessian of CE in the logits is at most I / 2, so c/2 X^T X + I bounds that of the whole.
After centring X and turning it to its principal axes that bound is diagonal, and a step is a
division; Nesterov's momentum, restarted where it leads uphill (O'Donoghue and Candès, arXiv
1204.3982), makes it a few hundred products of small matrices, all problems in one.

Shapes: D problems, N images, C width, R axes, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 3000
TOLERANCE = 1e-4
"""Of the gradient, against its size at the start."""


@torch.no_grad()
def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    c: float = 1.0,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Weights and intercepts of each problem.

    Args:
        features: fp32 (D, N, C).
        labels: int64 (D, N).
        classes: K; a class may have no image.
        c: the inverse strength of the penalty, as scikit-learn's C.
        steps: at most.
        tolerance: where to stop, of the largest entry of the gradient.

    Returns: (D, K, C) and (D, K).
    """
    middle = features.mean(1, keepdim=True)
    x, axes = _turned(features - middle)
    squared = x.square().sum(1, keepdim=True)  # (D, 1, R)
    step_w = 1 / (c / 2 * squared + 1)
    step_b = 2 / (c * x.shape[1])
    targets = F.one_hot(labels, classes).to(x.dtype)
    w = x.new_zeros(len(x), classes, x.shape[2])
    b = x.new_zeros(len(x), 1, classes)
    moved_w, moved_b, inertia = w, b, x.new_ones(len(x), 1, 1)
    first = None
    for number in range(steps):
        wrong = c * ((x @ moved_w.mT + moved_b).softmax(-1) - targets)
        gradient_w, gradient_b = wrong.mT @ x + moved_w, wrong.sum(1, keepdim=True)
        if number % 10 == 0:  # a sync point
            size = max(float(gradient_w.abs().max()), float(gradient_b.abs().max()))
            first = first or size
            if size <= tolerance * first:
                break
        new_w, new_b = moved_w - step_w * gradient_w, moved_b - step_b * gradient_b
        uphill = (gradient_w * (new_w - w)).sum((1, 2)) + (gradient_b * (new_b - b)).sum((1, 2)) > 0
        inertia = torch.where(uphill[:, None, None], 1.0, inertia)
        following = (1 + (1 + 4 * inertia.square()).sqrt()) / 2
        share = (inertia - 1) / following
        moved_w, moved_b = new_w + share * (new_w - w), new_b + share * (new_b - b)
        w, b, inertia = new_w, new_b, following
    weights = w @ axes.mT
    return weights, (b - middle @ weights.mT).squeeze(1)


def _turned(centred: Tensor) -> tuple[Tensor, Tensor]:
    """(D, N, R) in principal axes and the axes (D, C, R), R the smaller of N and C."""
    n, width = centred.shape[1:]
    if n < width:
        # Of fewer images than features the axes lie in what the images span.
        values, vectors = torch.linalg.eigh((centred @ centred.mT).double())
        lengths = values.clamp_min(0).sqrt()
        keep = lengths > 1e-6 * lengths.amax(-1, keepdim=True)
        inverse = torch.where(keep, 1 / lengths.clamp_min(1e-30), 0.0)
        axes = (centred.mT @ vectors.to(centred)) * inverse.to(centred)[:, None]
    else:
        axes = torch.linalg.eigh((centred.mT @ centred).double()).eigenvectors.to(centred)
    return centred @ axes, axes
