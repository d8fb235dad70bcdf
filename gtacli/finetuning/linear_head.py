"""The classifier that a fine-tuning starts with, fitted to frozen features of the training images.

    probe     logistic regression, so that the run is LP-FT (Kumar et al., arXiv 2202.10054)
    centroid  nearest class mean: the linear discriminant with one variance for all features
              (Snell et al., arXiv 1703.05175, with the squared distance divided by that variance)

Features are the input of the classifier, centered and divided by one scale for all of them (their
root mean square), so that one penalty serves every model. Accuracy hardly depends on C between 0.3
and 30.

Shapes: N images, C width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gtacli.data.base import Record
from gtacli.data.labels import multi_hot
from gtacli.data.sampling import count_labels
from gtacli.measures.logistic import fit_logistic

C = 1.0
"""Inverse strength of the probe's penalty, as scikit-learn's C, for features of scale 1."""
STEPS = 1000
"""Most steps of the fit; accuracy settles long before."""


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of readable images, in the order of their records.

    Attributes:
        values: (N, C) fp32 on the CPU.
        labels: (N,) int64, or (N, M) of any number per image, see `gtacli.data.labels`.
        indices: (N,) int64 places among the records.
    """

    values: Tensor
    labels: Tensor
    indices: Tensor

    def multi_hot(self, classes: int) -> Tensor:
        """Return the labels as zeros and ones (N, classes)."""
        return multi_hot(self.labels, classes)

    def select(self, chosen: Tensor) -> FrozenFeatures:
        """Return the images that a bool mask (N,) chooses."""
        return FrozenFeatures(self.values[chosen], self.labels[chosen], self.indices[chosen])


class LinearHead(NamedTuple):
    """A linear classifier: logits = features @ weight.T + bias."""

    weight: Tensor
    """(K, C)."""
    bias: Tensor
    """(K,)."""

    def logits(self, features: Tensor) -> Tensor:
        """Return (N, K) logits of (N, C) features."""
        return features @ self.weight.T + self.bias

    def accuracy(self, features: FrozenFeatures) -> float:
        """Return the fraction of images whose class has the largest logit."""
        hits = self.logits(features.values).argmax(1) == features.labels
        return float(hits.double().mean())


def fit_probe(features: FrozenFeatures, classes: int, c: float = C) -> LinearHead:
    """Fit a logistic regression with penalty ||W||^2 / 2c to features of scale 1.

    With any number of labels per image it is one for each class.
    """
    center, scale = _center_and_scale(features.values)
    x = ((features.values.double() - center) / scale).float()
    labels = features.labels if features.labels.ndim == 1 else features.multi_hot(classes)
    weight, bias = fit_logistic(x[None], labels[None], classes, c, STEPS)
    return _unscaled(weight[0].double(), bias[0].double(), center, scale)


def without_prior(head: LinearHead, labels: Tensor) -> LinearHead:
    """Return the classifier for classes that are equally frequent (logit adjustment).

    Menon et al., arXiv 2007.07314: the logarithm of each class's fraction is subtracted.

    Args:
        labels: (N,) of the images that it was fitted to; classes without any stay as they are.
    """
    counts = labels.bincount(minlength=len(head.bias)).double()
    prior = torch.where(counts > 0, counts.clamp_min(1).log(), 0.0)
    return LinearHead(head.weight, head.bias - prior.to(head.bias))


def fit_centroids(features: FrozenFeatures, classes: int) -> LinearHead:
    """Return the classifier by the nearest class mean.

    A class without an image has weights 0 and the lowest bias.
    """
    center, scale = _center_and_scale(features.values)
    x = (features.values.double() - center) / scale
    counts = features.labels.bincount(minlength=classes)
    sums = x.new_zeros(classes, x.shape[1]).index_add_(0, features.labels, x)
    means = sums / counts.clamp_min(1)[:, None]
    # Pooled over classes; an image alone in its class has no deviation, so they are not counted.
    freedom = max(1, len(x) - int((counts > 0).sum()))
    variance = (x - means[features.labels]).square().sum() / (freedom * x.shape[1])
    # Without any deviation (one image a class) the distances are as large as between images.
    variance = variance if variance > 1e-6 else x.new_ones(())
    weight = means / (variance * x.shape[1] ** 0.5)
    bias = -0.5 * (means * weight).sum(1)
    bias = torch.where(counts > 0, bias, bias.min())
    return _unscaled(weight, bias, center, scale)


def log_odds(records: Sequence[Record], classes: int) -> Tensor:
    """Return the logarithms (classes,) of the odds of each label among images."""
    counts = count_labels(records)
    numbers = torch.tensor([counts[label] for label in range(classes)], dtype=torch.float64)
    images = sum(record.first is None for record in records)
    # Half an image more of both, so that none is impossible.
    return ((numbers + 0.5) / (images - numbers + 0.5)).log().float()


def set_head(model: nn.Module, prefixes: tuple[str, ...], head: LinearHead) -> bool:
    """Copy a linear classifier into a model; return whether the model's classifier is linear.

    A distilled model averages two classifiers on two tokens: both get the same weights, so their
    mean is the classifier on the mean token, which the features are.
    """
    layers = _linear_layers(model, prefixes)
    if not layers or any(layer.weight.shape != head.weight.shape for layer in layers):
        return False
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(head.weight)
    return set_biases(model, prefixes, head.bias)


def set_biases(model: nn.Module, prefixes: tuple[str, ...], bias: Tensor) -> bool:
    """Copy biases (K,) into a model; return whether the model's classifier is linear."""
    layers = _linear_layers(model, prefixes)
    with torch.no_grad():
        for layer in layers:
            cast(Any, layer).bias.copy_(bias)
    return bool(layers)


def _linear_layers(model: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Linear]:
    return [
        module
        for name, module in model.named_modules()
        if name in prefixes and isinstance(module, nn.Linear)
    ]


def _center_and_scale(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (C,) and the root mean square deviation (), not 0, of all features."""
    values = values.double()
    center = values.mean(0)
    scale = (values - center).square().mean().sqrt()
    return center, scale if scale > 0 else scale.new_ones(())


def _unscaled(weight: Tensor, bias: Tensor, center: Tensor, scale: Tensor) -> LinearHead:
    """Return the classifier for features before centering and scaling, in fp32."""
    weight = weight / scale
    return LinearHead(weight.float(), (bias - weight @ center).float())
