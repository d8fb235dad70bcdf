"""TokenCut (Wang et al., arXiv 2202.11539): normalised cut of one block's keys.

Keys of all heads side by side, prefix tokens left out, as attention uses them (after QK-norm and
rotary embedding where a model has those). The formulas are those of `ncut`; for several objects an
image those of `maskcut`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, TokenCutOptions
from gtacli.discovery.base import Discovery, Found
from gtacli.discovery.maskcut import repeated_cuts
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.tap import absolute_layers, attention

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

PAPER = {"layer": -1, "tau": 0.2}  # for DINO's weights


class TokenCut(Discovery[TokenCutOptions]):
    """One object an image, or up to `objects`, with masks and boxes; of any timm ViT that can be
    tapped.

    Raises UsageError for a model that cannot, a block that it does not have, a negative tau for
    several objects, or options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = TokenCutOptions

    def __init__(self, options: TokenCutOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        if options.layer == "auto" or options.tau == "auto":
            raise UsageError("tokencut: layer and tau are auto; make_backend chooses them")
        if options.objects > 1 and options.tau < 0:
            raise UsageError(f"--tau: must be at least 0 for several objects, got {options.tau:g}")
        self.layers = absolute_layers((options.layer,), len(cast(Any, model).blocks))
        self.tau = options.tau

    @classmethod
    def resolve(cls, options: TokenCutOptions, model: LoadedModel) -> TokenCutOptions:
        """The paper's layer and tau for DINO's weights, else those of `calibration`."""
        open_ = [name for name in PAPER if getattr(options, name) == "auto"]
        if not open_:
            return options
        if is_dino(model):
            return options.model_copy(update={name: PAPER[name] for name in open_})
        from gtacli.discovery.calibration import TAUS, chosen

        depth = len(cast(Any, model.model).blocks)
        layers = absolute_layers("all" if options.layer == "auto" else (options.layer,), depth)
        taus = TAUS if options.tau == "auto" else (options.tau,)
        choice = chosen(model, layers, taus, options.eps)
        return options.model_copy(update={name: getattr(choice, name) for name in open_})

    @torch.no_grad()
    def find(self, images: Tensor) -> Found:
        (tap,) = attention(self.model, images, self.layers, rows="all")
        o = self.options
        keys = tap.patch_keys()
        if o.objects > 1:
            cuts = repeated_cuts(keys, tap.grid, o.objects, self.tau, o.eps, o.solver)
            return Found(cuts.map, cuts.masks[:, 0], objects=cuts.masks)
        cut = normalized_cut(keys, tap.grid, self.tau, o.eps, o.solver)
        return Found(cut.map, cut.mask, cut.box)


def is_dino(model: LoadedModel) -> bool:
    """Whether the weights are DINO's own, by their file's layout or by timm's tag.

    Those of a run that started from DINO are not.
    """
    if model.report.layout == "DINO":
        return True
    tag = cast(Any, model.model).pretrained_cfg.get("tag")
    return tag == "dino" and bool(model.report.loaded) and not Path(model.spec).is_dir()
