"""FOUND's background seed, without its trained head (Siméoni et al., arXiv 2212.07834).

The patch with the least attention of the CLS token is background, and so are all patches like it:

    beta_h = log(sum_h' Q_h' / Q_h),   Q_h the share of patches of head h with attention above the
                                       mean of all heads and patches,
    s = argmin_p sum_h beta_h a_hp,    a_hp the attention of head h on patch p,
    background = {p: cos(f_p, f_s) > tau},   f_p the keys of patch p, those of head h times beta_h.

The rest are objects; the mask is the part of them that the center prior prefers (`center`), and the
map is one minus the cosine. There is no eigenproblem and no product of patches with patches, so it
is the fast path.

Shapes: B images, H heads, N patches, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.config.parts import DiscoveryOptions, FoundOptions
from gtacli.discovery.base import Discovery, ObjectMaps, unit_range
from gtacli.discovery.bipartition import boxes_of
from gtacli.discovery.center import central_component
from gtacli.discovery.chosen import numbers, resolved
from gtacli.models import timm_blocks
from gtacli.models.tap import Tap, absolute_layers, attention, require_cls

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

PAPER = {"layer": -1, "tau": 0.3}  # for DINO's weights
_EPS = 1e-10  # of the published code, for a head without attention above the mean


class FoundSeed(Discovery[FoundOptions]):
    """The patches unlike the least attended one, for any supported ViT with a CLS token.

    Raises UsageError for an unsupported model (option "model"), one without a CLS token (option
    "backend"), a block that it does not have, or options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = FoundOptions
    needs_gradients: ClassVar[bool] = False

    def __init__(self, options: FoundOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        require_cls(model, "backend", "use `backend=tokencut`")
        layer, self.tau = numbers("found", options)
        self.layers = absolute_layers((layer,), len(model.blocks))  # type: ignore[arg-type]

    @classmethod
    def resolve(cls, options: FoundOptions, model: LoadedModel) -> FoundOptions:
        """Replace "auto" by the paper's values for DINO's weights, else by calibrated values."""
        require_cls(model.model, "backend", "use `backend=tokencut`")
        return cast(FoundOptions, resolved("found", options, model, PAPER, (), _masks))

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        (tap,) = attention(self.model, images, self.layers, rows="all")
        likeness = background_likeness(tap)
        masks = _foreground(likeness, tap.grid, self.tau)
        boxes = torch.from_numpy(boxes_of(masks.cpu().numpy())).to(masks.device)
        return ObjectMaps(unit_range(1 - likeness.unflatten(-1, tap.grid)), masks, boxes)


def background_likeness(tap: Tap) -> Tensor:
    """Return the cosine (B, N) of each patch with the least attended one, in fp32."""
    attended = tap.cls().maps().flatten(2).float()
    keys = tap.q_k[1][:, :, tap.num_prefix_tokens :].float()
    mean = attended.mean((1, 2), keepdim=True)
    above = (attended > mean).float().mean(-1)
    beta = torch.log((above + _EPS).sum(1, keepdim=True) / (above + _EPS))
    seed = (attended * beta[..., None]).sum(1).argmin(-1)
    features = (keys * beta[..., None, None]).transpose(1, 2).flatten(2)
    features = F.normalize(features, dim=-1)
    each = torch.arange(len(seed), device=seed.device)
    return torch.bmm(features, features[each, seed][..., None])[..., 0]


def _foreground(likeness_BN: Tensor, grid: tuple[int, int], tau: float) -> Tensor:
    others = (likeness_BN <= tau).unflatten(-1, grid)
    return torch.from_numpy(central_component(others.cpu().numpy())).to(likeness_BN.device)


def _masks(taps: Sequence[Tap], tau: float) -> Tensor:
    return _foreground(background_likeness(taps[0]), taps[0].grid, tau)
