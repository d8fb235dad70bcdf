"""TokenCut (Wang et al., arXiv 2202.11539): normalised cut of one block's keys.

Keys of all heads side by side, prefix tokens left out, as attention uses them (after QK-norm and
rotary embedding where a model has those). The formulas are those of `ncut`; for several objects an
image those of `maskcut`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, TokenCutOptions
from gtacli.discovery.base import Discovery, Found
from gtacli.discovery.maskcut import repeated_cuts
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.tap import absolute_layers, attention


class TokenCut(Discovery[TokenCutOptions]):
    """One object an image, or up to `objects`, with masks and boxes; of any timm ViT that can be
    tapped.

    Raises UsageError for a model that cannot, a block that it does not have, or a negative tau for
    several objects.
    """

    Options: ClassVar[type[DiscoveryOptions]] = TokenCutOptions

    def __init__(self, options: TokenCutOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        if options.objects > 1 and options.tau < 0:
            raise UsageError(f"--tau: must be at least 0 for several objects, got {options.tau:g}")
        self.layers = absolute_layers((options.layer,), len(model.blocks))  # type: ignore[arg-type]

    @torch.no_grad()
    def find(self, images: Tensor) -> Found:
        (tap,) = attention(self.model, images, self.layers, rows="all")
        keys = tap.q_k[1][:, :, tap.num_prefix_tokens :].transpose(1, 2).flatten(2)
        o = self.options
        if o.objects > 1:
            cuts = repeated_cuts(keys, tap.grid, o.objects, o.tau, o.eps, o.solver)
            return Found(cuts.map, cuts.masks[:, 0], objects=cuts.masks)
        cut = normalized_cut(keys, tap.grid, o.tau, o.eps, o.solver)
        return Found(cut.map, cut.mask, cut.box)
