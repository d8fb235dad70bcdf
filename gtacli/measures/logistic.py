"""Logistic regression, many problems at once (few-shot draws differ only in their images).

    min over W, b of  c * sum_i CE(W x_i + b, y_i) + ||W||^2 / 2

as scikit-learn's LogisticRegression (multinomial, l2, intercept not penalized). Böhning's bound
(1992): the Hessian of CE in the logits is at most I / 2, so c/2 X^T X + I bounds the objective's.
After centering X and rotating it to its principal axes this bound is diagonal, and a step is a
division. With Nesterov's momentum, restarted where it leads uphill (O'Donoghue and Candès, arXiv
1204.3982), a fit is a few hundred products of small matrices, batched over all problems.

With any number of labels per image each class is a logistic regression of its own (as its
OneVsRestClassifier), whose Hessian is at most 1/4: all of them are fitted at once.

Shapes: D problems, N images, C width, R axes, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 3000
TOLERANCE = 1e-4
"""Size of the gradient at which to stop, relative to its size at the start."""


@torch.no_grad()
def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    c: float = 1.0,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
    used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit the weights (D, K, C) and intercepts (D, K) of all problems.

    Args:
        features: fp32 (D, N, C).
        labels: int64 (D, N), or zeros and ones (D, N, K) for any number of labels per image.
        classes: K; a class may have no image.
        c: the inverse strength of the penalty, as scikit-learn's C.
        steps: at most.
        tolerance: relative size of the gradient's largest entry at which to stop.
        used: bool (D, N), the images of each problem; default: all. So folds of the same images
            are solved together.
    """
    several = labels.ndim == 3
    counted = features.new_ones(features.shape[:2]) if used is None else used.to(features)
    counted = counted[..., None]
    images = counted.sum(1, keepdim=True)  # (D, 1, 1)
    center = (features * counted).sum(1, keepdim=True) / images
    x, axes = _rotate((features - center) * counted)
    squared = x.square().sum(1, keepdim=True)  # (D, 1, R)
    bound = 1 / 4 if several else 1 / 2
    step_w = 1 / (c * bound * squared + 1)
    step_b = 1 / (c * bound * images)
    targets = (labels if several else F.one_hot(labels, classes)).to(x.dtype)
    w = x.new_zeros(len(x), classes, x.shape[2])
    b = x.new_zeros(len(x), 1, classes)
    moved_w, moved_b, inertia = w, b, x.new_ones(len(x), 1, 1)
    first = None
    for number in range(steps):
        logits = x @ moved_w.mT + moved_b
        wrong = c * counted * ((logits.sigmoid() if several else logits.softmax(-1)) - targets)
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
        momentum = (inertia - 1) / following
        moved_w, moved_b = new_w + momentum * (new_w - w), new_b + momentum * (new_b - b)
        w, b, inertia = new_w, new_b, following
    weights = w @ axes.mT
    return weights, (b - center @ weights.mT).squeeze(1)


def _rotate(centered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the data (D, N, R) in its principal axes and the axes (D, C, R), R = min(N, C)."""
    n, width = centered.shape[1:]
    if n < width:
        # With fewer images than features the axes lie in the span of the images.
        values, vectors = torch.linalg.eigh((centered @ centered.mT).double())
        lengths = values.clamp_min(0).sqrt()
        keep = lengths > 1e-6 * lengths.amax(-1, keepdim=True)
        inverse = torch.where(keep, 1 / lengths.clamp_min(1e-30), 0.0)
        axes = (centered.mT @ vectors.to(centered)) * inverse.to(centered)[:, None]
    else:
        axes = torch.linalg.eigh((centered.mT @ centered).double()).eigenvectors.to(centered)
    return centered @ axes, axes
