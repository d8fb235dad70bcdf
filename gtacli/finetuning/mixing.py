"""Mixup, CutMix and TransMix: two images in one view, with a soft label.

Boxes and fractions are drawn as timm draws them, one draw a batch. Image i is mixed with image
B - 1 - i; the middle one of an odd batch with itself, so the last batch of an epoch needs no
special case. Mixing precedes the normalization, which differs between target and source: both get
the same view.

Mixup: Zhang et al., arXiv 1710.09412; CutMix: Yun et al., 1905.04899; TransMix: Chen et al.,
2111.09833. Shapes: B images, H heads, P prefix tokens, patch grid gh x gw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from timm.data.mixup import cutmix_bbox_and_lam
from torch import Tensor
from torch.nn import functional as F

from gtacli.models.tap import Tap

MixKind = Literal["mixup", "cutmix", "transmix"]
Sides = tuple[int, int, int, int]
"""(top, bottom, left, right) in pixels."""
ALPHA = {"mixup": 0.8, "cutmix": 1.0, "transmix": 1.0}  # timm's and TransMix's training scripts


@dataclass(frozen=True)
class Mix:
    """The random numbers of one batch.

    Attributes:
        fraction: fraction of an image in its own view, 0 to 1; the rest is its partner's.
        box: what the partner fills; None: both images are blended.
    """

    fraction: float
    box: Sides | None = None

    def images(self, images: Tensor) -> Tensor:
        """Mix uint8 images (B, 3, h, w).

        Returns: views of the same shape, uint8; or fp32 on the same scale if they are blended.
        """
        if self.fraction == 1:
            return images
        if self.box is None:
            return torch.lerp(images.flip(0).float(), images.float(), self.fraction)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
        return mixed


@dataclass(frozen=True)
class Mixing:
    """The way in which the batches of a run are mixed.

    Attributes:
        kind: transmix cuts as cutmix does and computes the labels from the attention.
        alpha: of the distribution Beta(alpha, alpha) of the fractions.
        prob: probability that a batch is mixed at all.
        weight: for TransMix: the fraction of the attention alone, as in the paper's equation 4, or
            its mean with the fraction of the area, as in the released code.
    """

    kind: MixKind
    alpha: float
    prob: float = 1.0
    weight: Literal["mean", "attention"] = "mean"

    def draw(self, height: int, width: int) -> Mix:
        """Draw the mix of a batch of `height` x `width` images, with NumPy's global generator."""
        if np.random.random() >= self.prob:
            return Mix(1.0)
        fraction = float(np.random.beta(self.alpha, self.alpha))
        if self.kind == "mixup":
            return Mix(fraction)
        box, fraction = cutmix_bbox_and_lam((3, height, width), fraction)
        top, bottom, left, right = (int(side) for side in box)
        return Mix(float(fraction), (top, bottom, left, right))

    def own_fraction(self, mix: Mix, tap: Tap | None, size: tuple[int, int]) -> Tensor | float:
        """Return the weight of an image's own label: (B,), or one number for all.

        Args:
            mix: the draw that made the views.
            tap: the last block's attention on them, for TransMix.
            size: (h, w) of the views in pixels.
        """
        if self.kind != "transmix" or mix.box is None or mix.fraction == 1:
            return mix.fraction
        assert tap is not None
        attended = 1 - attended_fraction(tap, mix.box, size)
        return attended if self.weight == "attention" else (attended + mix.fraction) / 2


def attended_fraction(tap: Tap, box: Sides, size: tuple[int, int]) -> Tensor:
    """Return the fraction (B,) of the CLS token's attention to the patches that is in a box.

    The attention is the mean over heads, and detached, because gradients must not pass through
    labels. A patch counts as inside if the pixel that nearest-neighbor resizing samples is.

    Args:
        tap: attention of a block on views of `size` (h, w) pixels.
        box: in pixels.
        size: (h, w).
    """
    maps = tap.cls().maps().detach().mean(1)  # (B, gh, gw)
    top, bottom, left, right = box
    pixels = maps.new_zeros((1, 1, *size))
    pixels[..., top:bottom, left:right] = 1
    inside = F.interpolate(pixels, size=tap.grid, mode="nearest")[0]
    return (maps * inside).sum((-2, -1)) / maps.sum((-2, -1))


def soft_labels(labels: Tensor, own_fraction: Tensor | float, classes: int) -> Tensor:
    """Return the mixed labels (B, classes) in fp32.

    Args:
        labels: (B,) class indices.
        own_fraction: weight of an image's own label; the rest is its partner's.
        classes: number of classes.
    """
    return mix_labels(F.one_hot(labels, classes).float(), own_fraction)


def mix_labels(own: Tensor, own_fraction: Tensor | float) -> Tensor:
    """Return labels (B, classes) mixed with those of their partners."""
    fraction = own_fraction[:, None] if isinstance(own_fraction, Tensor) else own_fraction
    return own.flip(0) + fraction * (own - own.flip(0))
