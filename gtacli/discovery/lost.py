"""LOST (Siméoni et al., arXiv 2109.14279): an object's patches are like few others.

    d_p = |{q != p: f_p . f_q > 0}|,      f the keys of one block, heads concatenated,
    seed = argmin d,
    S = {p among the k patches of lowest degree: f_p . f_seed > 0},
    object = the 4-connected component of the seed in {p: sum_(s in S) f_s . f_p > 0}.

That fits DINO's keys. Those of other weights are all alike, and then every product is positive;
with tau above 0 the products are (cos(f_p, f_q) - tau) |f_p| |f_q|, and tau = 0 is as published.

Shapes: B images, N patches, C width of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, LostOptions
from gtacli.discovery.affinity import Affinity
from gtacli.discovery.base import Discovery, ObjectMaps, unit_range
from gtacli.discovery.bipartition import component_of
from gtacli.discovery.chosen import numbers, resolved
from gtacli.models import timm_blocks
from gtacli.models.tap import Tap, absolute_layers, attention

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

PAPER = {"layer": -1, "tau": 0.0, "k": 100}  # for DINO's weights
FRACTION = 8  # of the patches, that k is one part of elsewhere
_CHUNK = 1 << 28  # entries of the affinities in memory


class Lost(Discovery[LostOptions]):
    """The patches like the one of lowest degree, for any supported ViT.

    Raises UsageError for an unsupported model (option "model"), a block that it does not have, or
    options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = LostOptions
    needs_gradients: ClassVar[bool] = False

    def __init__(self, options: LostOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        layer, self.tau = numbers("lost", options)
        self.layers = absolute_layers((layer,), len(model.blocks))  # type: ignore[arg-type]

    @classmethod
    def resolve(cls, options: LostOptions, model: LoadedModel) -> LostOptions:
        """Replace "auto" by the paper's values for DINO's weights, else by calibrated values."""
        k = None if options.k == "auto" else options.k

        def masks(taps: Sequence[Tap], tau: float) -> Tensor:
            return _object(*expansion(taps[0].patch_keys(), tau, k), taps[0].grid)

        return cast(LostOptions, resolved("lost", options, model, PAPER, (k,), masks))

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        (tap,) = attention(self.model, images, self.layers, rows="all")
        k = None if self.options.k == "auto" else self.options.k
        likeness, seed = expansion(tap.patch_keys(), self.tau, k)
        side = (likeness > 0).unflatten(-1, tap.grid).cpu().numpy()
        masks, boxes = (torch.from_numpy(a) for a in component_of(side, seed.cpu().numpy()))
        maps = unit_range(likeness.unflatten(-1, tap.grid))
        return ObjectMaps(maps, masks.to(maps.device), boxes.to(maps.device))


def expansion(keys_BNC: Tensor, tau: float, k: int | None) -> tuple[Tensor, Tensor]:
    """Return the sum of products with S, (B, N) in fp32, and the seed (B,).

    Args:
        keys_BNC: not normalized.
        tau: see above.
        k: patches of lowest degree; None: an eighth of all.
    """
    keys = keys_BNC.float()
    length = keys.norm(dim=-1)
    unit = keys / length.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    count = keys.shape[1]
    chunk = max(1, _CHUNK // count**2)
    # With the diagonal: 1 for each patch alike, so the order is the published one.
    degrees = [Affinity.of(part, tau, 0.0).degrees() for part in unit.split(chunk)]
    order = torch.cat(degrees or [length]).argsort(dim=-1, stable=True)
    seed, few = order[:, 0], order[:, : max(1, count // FRACTION) if k is None else k]
    each = torch.arange(len(keys), device=keys.device)
    alike = torch.bmm(unit, unit[each, seed][..., None])[..., 0] > tau
    chosen = torch.zeros_like(length).scatter_(1, few, alike.gather(1, few).float())
    total = torch.bmm(chosen[:, None], keys)
    products = torch.bmm(keys, total.transpose(1, 2))[..., 0]
    lengths = (chosen * length).sum(-1, keepdim=True)
    return products - tau * length * lengths, seed


def _object(likeness_BN: Tensor, seed: Tensor, grid: tuple[int, int]) -> Tensor:
    side = (likeness_BN > 0).unflatten(-1, grid).cpu().numpy()
    return torch.from_numpy(component_of(side, seed.cpu().numpy())[0])
