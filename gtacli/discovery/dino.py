"""Attention of the CLS token as an object map (DINO, Caron et al., arXiv 2104.14294).

The map is the softmax of the CLS row over all tokens, patch columns. The mask consists of the
patches with the highest attention that together have 60 % of its mass (`visualize_attention.py` of
facebookresearch/dino). DINO shows each head separately and evaluates with the best head for each
true object; the reductions to one map without ground truth are ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from gtacli.config.parts import DinoOptions, DiscoveryOptions
from gtacli.discovery.base import Discovery, ObjectMaps, unit_range
from gtacli.measures.attention import mass_mask
from gtacli.models import timm_blocks
from gtacli.models.tap import absolute_layers, attention, require_cls


class Dino(Discovery[DinoOptions]):
    """The attention of the CLS token as maps and masks, for any supported ViT with a CLS token.

    Raises UsageError for an unsupported model (option "model"), one without a CLS token (option
    "backend"), or a block that it does not have.
    """

    Options: ClassVar[type[DiscoveryOptions]] = DinoOptions
    needs_gradients: ClassVar[bool] = False

    def __init__(self, options: DinoOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        require_cls(model, "backend", "use `backend=tokencut`")
        self.layers = absolute_layers((options.layer,), len(model.blocks))  # type: ignore[arg-type]

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        (tap,) = attention(self.model, images, self.layers)
        attended = tap.maps()
        head_masks = mass_mask(attended, self.options.mass)
        if self.options.heads == "best":
            best = _agreement(head_masks).argmax(-1)
            each = torch.arange(len(best), device=best.device)
            maps, masks = attended[each, best], head_masks[each, best]
        else:
            maps = attended.amax(1) if self.options.heads == "max" else attended.mean(1)
            masks = mass_mask(maps, self.options.mass)
        return ObjectMaps(unit_range(maps), masks, head_masks=head_masks)


def _agreement(masks_BHhw: Tensor) -> Tensor:
    """Return the mean IoU (B, H) of each head's mask with those of all heads."""
    m = masks_BHhw.flatten(2).float()
    shared = m @ m.transpose(1, 2)
    area = m.sum(-1)
    return (shared / (area[:, :, None] + area[:, None] - shared)).mean(-1)
