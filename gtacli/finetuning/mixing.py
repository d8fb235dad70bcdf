"""Mixup, CutMix and TransMix: two images in one view, and how much of each label it carries.

The boxes and shares are drawn as timm draws them, one draw a batch, and an image's partner is its
mirror place in the batch. The partner of the middle image of an odd batch is itself, so that the
last batch of an epoch needs no special case. Mixing is done before each network normalises the view
its own way: target and source see the same one.

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

Kind = Literal["mixup", "cutmix", "transmix"]
Box = tuple[int, int, int, int]
ALPHA = {"mixup": 0.8, "cutmix": 1.0, "transmix": 1.0}  # timm's and TransMix's training scripts


@dataclass(frozen=True)
class Mix:
    """One draw.

    Attributes:
        share: of the image's own pixels in its view, 0 to 1; the rest is its partner's.
        box: (top, bottom, left, right) in pixels that the partner fills; None: both are blended.
    """

    share: float
    box: Box | None = None

    def images(self, images: Tensor) -> Tensor:
        """The mixed views of uint8 (B, 3, h, w): uint8, or fp32 on the same scale if blended."""
        if self.share == 1:
            return images
        if self.box is None:
            return torch.lerp(images.flip(0).float(), images.float(), self.share)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].flip(0)
        return mixed


@dataclass(frozen=True)
class Mixing:
    """How the batches of a run are mixed.

    Attributes:
        kind: of mixing; transmix cuts as cutmix does and asks the attention for the labels.
        alpha: of the Beta(alpha, alpha) that the shares come from.
        prob: probability that a batch is mixed at all.
        weight: of TransMix: the attention's share alone, as in the paper's equation 4, or its mean
            with the share of the area, as in the released code.
    """

    kind: Kind
    alpha: float
    prob: float = 1.0
    weight: Literal["mean", "attention"] = "mean"

    def draw(self, height: int, width: int) -> Mix:
        """The mix of a batch of `height` x `width` images, from numpy's global random numbers."""
        if np.random.random() >= self.prob:
            return Mix(1.0)
        share = float(np.random.beta(self.alpha, self.alpha))
        if self.kind == "mixup":
            return Mix(share)
        box, share = cutmix_bbox_and_lam((3, height, width), share)
        top, bottom, left, right = (int(side) for side in box)
        return Mix(float(share), (top, bottom, left, right))

    def own_share(self, mix: Mix, tap: Tap | None, size: tuple[int, int]) -> Tensor | float:
        """How much of an image's own label its view carries: (B,), or one number for all.

        Args:
            mix: the draw that made the views.
            tap: the last block's attention on them, for TransMix.
            size: (h, w) of the views in pixels.
        """
        if self.kind != "transmix" or mix.box is None or mix.share == 1:
            return mix.share
        assert tap is not None
        attended = 1 - attended_share(tap, mix.box, size)
        return attended if self.weight == "attention" else (attended + mix.share) / 2


def attended_share(tap: Tap, box: Box, size: tuple[int, int]) -> Tensor:
    """(B,) share of the CLS token's attention to the patches that falls into a box.

    The heads' mean; detached, since a label is no place to learn from. A patch counts as inside
    when the pixel that nearest resizing takes from it is.

    Args:
        tap: attention of a block on views of `size` (h, w) pixels.
        box: (top, bottom, left, right) in pixels.
    """
    maps = tap.cls().maps().detach().mean(1)  # (B, gh, gw)
    top, bottom, left, right = box
    pixels = maps.new_zeros((1, 1, *size))
    pixels[..., top:bottom, left:right] = 1
    inside = F.interpolate(pixels, size=tap.grid, mode="nearest")[0]
    return (maps * inside).sum((-2, -1)) / maps.sum((-2, -1))


def soft_labels(labels: Tensor, own_share: Tensor | float, classes: int) -> Tensor:
    """(B, classes) fp32 distributions: `own_share` for an image's label, the rest for its
    partner's. Labels (B,)."""
    own = F.one_hot(labels, classes).float()
    share = own_share[:, None] if isinstance(own_share, Tensor) else own_share
    return own.flip(0) + share * (own - own.flip(0))
