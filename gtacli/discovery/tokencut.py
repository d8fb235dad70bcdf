"""TokenCut (Wang et al., arXiv 2202.11539): the normalized cut of one block's keys.

The features are the patches' keys, heads concatenated, as attention uses them (after QK-norm and
rotary embedding). The formulas are in `ncut`; those for several objects per image in `maskcut`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, TokenCutOptions
from gtacli.discovery.base import Discovery, ObjectMaps
from gtacli.discovery.bipartition import Side
from gtacli.discovery.maskcut import repeated_cuts
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.tap import absolute_layers, attention

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

PAPER = {"layer": -1, "tau": 0.2, "side": "seed"}  # for DINO's weights


class TokenCut(Discovery[TokenCutOptions]):
    """The normalized cut of keys: one object per image, or up to `objects`, for any supported ViT.

    Raises UsageError for an unsupported model (option "model"), a block that it does not have, a
    negative tau for several objects, or options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = TokenCutOptions

    def __init__(self, options: TokenCutOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        if options.layer == "auto" or options.tau == "auto" or options.side == "auto":
            raise UsageError("options of tokencut are auto; make_backend chooses them")
        if options.objects > 1 and options.tau < 0:
            raise UsageError(
                f"must be at least 0 for several objects, got {options.tau:g}",
                option="tau",
            )
        self.layers = absolute_layers((options.layer,), len(cast(Any, model).blocks))
        self.tau, self.side = options.tau, options.side

    @classmethod
    def resolve(cls, options: TokenCutOptions, model: LoadedModel) -> TokenCutOptions:
        """Replace "auto" by the paper's values for DINO's weights, else by calibrated values."""
        auto = [name for name in PAPER if getattr(options, name) == "auto"]
        if not auto:
            return options
        if is_dino(model):
            return options.model_copy(update={name: PAPER[name] for name in auto})
        if "side" in auto:
            auto.remove("side")
            options = options.model_copy(update={"side": "center"})
        if not auto:
            return options
        from gtacli.discovery.calibration import TAUS, cached_calibration

        depth = len(cast(Any, model.model).blocks)
        layers = absolute_layers("all" if options.layer == "auto" else (options.layer,), depth)
        taus = TAUS if options.tau == "auto" else (options.tau,)
        side: Side = "seed" if options.side == "seed" else "center"
        best = cached_calibration(model, layers, taus, options.eps, side)
        return options.model_copy(update={name: getattr(best, name) for name in auto})

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        (tap,) = attention(self.model, images, self.layers, rows="all")
        o = self.options
        keys = tap.patch_keys()
        if o.objects > 1:
            cuts = repeated_cuts(keys, tap.grid, o.objects, self.tau, o.eps, o.solver, self.side)
            return ObjectMaps(cuts.map, cuts.masks[:, 0], objects=cuts.masks)
        cut = normalized_cut(keys, tap.grid, self.tau, o.eps, o.solver, self.side)
        return ObjectMaps(cut.map, cut.mask, cut.box)


def is_dino(model: LoadedModel) -> bool:
    """Return whether the weights are DINO's own, by their file's layout or by timm's tag.

    Weights of a run that started from DINO are not.
    """
    if model.report.layout == "DINO":
        return True
    tag = cast(Any, model.model).pretrained_cfg.get("tag")
    return tag == "dino" and bool(model.report.loaded) and not Path(model.spec).is_dir()
