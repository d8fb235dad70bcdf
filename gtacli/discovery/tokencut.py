"""TokenCut (Wang et al., arXiv 2202.11539): the normalized cut of the keys of one block or more.

The features are the patches' keys, heads concatenated, as attention uses them (after QK-norm and
rotary embedding). The formulas are in `ncut`; those for several objects per image in `maskcut`.

Blocks that vote: two patches are connected if the mean of their cosine similarities over the blocks
is above tau. That is the cosine of the blocks' normalized keys side by side, so that a vote needs
one cut, not one of each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.config.parts import DiscoveryOptions, TokenCutOptions
from gtacli.discovery.base import Discovery, ObjectMaps
from gtacli.discovery.bipartition import Side
from gtacli.discovery.maskcut import repeated_cuts
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.tap import Tap, absolute_layers, attention

if TYPE_CHECKING:
    from gtacli.discovery.calibration import MaskMethod
    from gtacli.models.loading import LoadedModel

PAPER = {"layer": -1, "tau": 0.2, "side": "seed", "vote": ()}  # for DINO's weights


class TokenCut(Discovery[TokenCutOptions]):
    """The normalized cut of keys: one object per image, or up to `objects`, for any supported ViT.

    Raises UsageError for an unsupported model (option "model"), a block that it does not have, a
    negative tau for several objects, or options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = TokenCutOptions
    needs_gradients: ClassVar[bool] = False

    def __init__(self, options: TokenCutOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        side, layer, tau, vote = options.side, options.layer, options.tau, options.vote
        if "auto" in (side, layer, tau, vote):
            raise UsageError("options of tokencut are auto; make_backend chooses them")
        if options.objects > 1 and cast(float, tau) < 0:
            raise UsageError(
                f"must be at least 0 for several objects, got {tau:g}",
                option="tau",
            )
        blocks = cast("tuple[int, ...]", vote) or (cast(int, layer),)
        self.layers = absolute_layers(blocks, len(cast(Any, model).blocks))
        self.tau, self.side = cast(float, tau), cast(Side, side)

    @classmethod
    def resolve(cls, options: TokenCutOptions, model: LoadedModel) -> TokenCutOptions:
        """Replace "auto" by the paper's values for DINO's weights, else by calibrated values."""
        depth = len(cast(Any, model.model).blocks)
        if options.vote and options.vote != "auto":
            blocks = absolute_layers(options.vote, depth)
            options = options.model_copy(update={"vote": blocks, "layer": blocks[-1]})
        auto = [name for name in PAPER if getattr(options, name) == "auto"]
        if is_dino(model):
            return options.model_copy(update={name: PAPER[name] for name in auto})
        side: Side = "seed" if options.side == "seed" else "center"
        options = options.model_copy(update={"side": side})
        if "layer" not in auto and "tau" not in auto:
            return options.model_copy(update={"vote": ()} if "vote" in auto else {})
        from gtacli.discovery.calibration import TAUS, cached_calibration, together

        method = tokencut_method(options.eps, side)
        taus = TAUS if options.tau == "auto" else (options.tau,)
        if options.vote and options.vote != "auto":
            tau = together(model, method, options.vote, taus).tau
            return options.model_copy(update={"tau": tau})
        free = options.layer == "auto"
        layers = absolute_layers("all" if free else (cast(int, options.layer),), depth)
        vote = free and "tau" in auto and "vote" in auto
        best = cached_calibration(model, method, layers, taus, vote)
        voters = best.blocks if len(best.blocks) > 1 else ()
        chosen = {"layer": best.layer, "tau": best.tau, "vote": voters}
        return options.model_copy(update={name: chosen[name] for name in auto if name in chosen})

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        taps = attention(self.model, images, self.layers, rows="all")
        o, grid = self.options, taps[0].grid
        keys = joint_keys(taps)
        if o.objects > 1:
            cuts = repeated_cuts(keys, grid, o.objects, self.tau, o.eps, o.solver, self.side)
            return ObjectMaps(cuts.map, cuts.masks[:, 0], objects=cuts.masks)
        cut = normalized_cut(keys, grid, self.tau, o.eps, o.solver, self.side)
        return ObjectMaps(cut.map, cut.mask, cut.box)


def joint_keys(taps: Sequence[Tap]) -> Tensor:
    """Return the patches' keys (B, N, C); of several blocks side by side, each of length 1."""
    if len(taps) == 1:
        return taps[0].patch_keys()
    return torch.cat([F.normalize(tap.patch_keys().float(), dim=-1) for tap in taps], dim=-1)


def tokencut_method(eps: float, side: Side) -> MaskMethod:
    """Return TokenCut's masks as a function of blocks and tau, to calibrate them."""
    from gtacli.discovery.calibration import MaskMethod

    def masks(taps: Sequence[Tap], tau: float) -> Tensor:
        return normalized_cut(joint_keys(taps), taps[0].grid, tau, eps, side=side).mask

    return MaskMethod("tokencut", (eps, side), masks)


def is_dino(model: LoadedModel) -> bool:
    """Return whether the weights are DINO's own, by their file's layout or by timm's tag.

    Weights of a run that started from DINO are not.
    """
    if model.report.layout == "DINO":
        return True
    tag = cast(Any, model.model).pretrained_cfg.get("tag")
    return tag == "dino" and bool(model.report.loaded) and not Path(model.spec).is_dir()
